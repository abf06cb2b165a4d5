//! From the text of a file to the texts of its documents, each as it was written: what is applied is kept document by
//! document. Understands only the marks that YAML allows nowhere else, at the beginning of a line.

/// The text of each document that holds anything, in order, without the marks around it.
pub(super) fn documents(text: &str) -> Vec<&str> {
    let mut documents = Vec::new();
    let (mut start, mut at) = (0, 0);
    for line in text.split_inclusive('\n') {
        let next = at + line.len();
        if is_mark(line, "---") {
            documents.push((start, at));
            // A document may begin on the line of its mark.
            start = if line.trim_end().len() > 3 {
                at + 3
            } else {
                next
            };
        } else if is_mark(line, "...") {
            documents.push((start, at));
            start = next;
        }
        at = next;
    }
    documents.push((start, at));
    let texts = documents
        .into_iter()
        .filter_map(|(from, to)| text.get(from..to));
    texts
        .filter(|text| text.lines().any(is_content))
        .map(without_blank_lines)
        .collect()
}

fn is_mark(line: &str, mark: &str) -> bool {
    line.strip_prefix(mark)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn is_content(line: &str) -> bool {
    let line = line.trim_start();
    !line.is_empty() && !line.starts_with('#') && !line.starts_with("%YAML")
}

fn without_blank_lines(text: &str) -> &str {
    let text = text.trim_end();
    let blank = text
        .split_inclusive('\n')
        .take_while(|line| line.trim().is_empty())
        .map(str::len)
        .sum();
    text.get(blank..).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_document_keeps_its_comments_and_loses_its_marks() {
        let text = "# first\na: 1\n---\n\n# second\nb: |\n  --- not a mark\n--- c: 3\n...\n# nothing here\n---\n";
        assert_eq!(
            documents(text),
            ["# first\na: 1", "# second\nb: |\n  --- not a mark", " c: 3"]
        );
        assert_eq!(documents(""), [""; 0]);
        assert_eq!(documents("# only a comment\n"), [""; 0]);
        assert_eq!(documents("a: 1\r\n---\r\nb: 2\r\n"), ["a: 1", "b: 2"]);
    }

    proptest! {
        #[test]
        fn splitting_is_total(text in "([-. a:#\\n\\r]|\\PC){0,60}") {
            drop(documents(&text));
        }
    }
}
