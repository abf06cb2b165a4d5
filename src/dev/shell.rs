//! Words for a POSIX shell, quoted so that they mean exactly themselves.

/// The word as it is where it needs no quoting, else in single quotes.
pub(crate) fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        for word in [
            "plain",
            "",
            "two words",
            "it's",
            "$HOME `id` \\ \"x\" ; # | & * ~",
            "new\nline",
            "group:a|b",
            "-ü",
        ] {
            let script = format!("printf %s {}", quote(word));
            let output = std::process::Command::new("/bin/sh")
                .args(["-c", &script])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
        assert_eq!(quote("/a/b-c_d.e:1"), "/a/b-c_d.e:1");
    }
}
