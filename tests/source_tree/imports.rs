//! Which file of a crate imports which, read from `use` declarations and from the paths in its code.
//!
//! * `crate::`, `self::`, `super::` and names that a `use` has brought in are resolved to the file that defines the item; a
//!   re-export is followed to where the item stands.
//! * `mod x;` is no import, and neither is a re-export (`pub use`) of a name that the file does not use itself. So a parent
//!   that declares, re-exports or wires its children counts as any other file: it may import what its children define, and
//!   then they may not import what it defines.
//! * What is compiled for tests alone does not count. Calls of methods are not seen: only what is named is imported.

use std::collections::{BTreeMap, BTreeSet};

/// `control::store` as `["control", "store"]`; empty for `lib.rs`.
type ModulePath = Vec<String>;

/// A `use`: the name that it brings in (none for `*`), the path, and whether it is passed on.
struct Binding {
    name: Option<String>,
    path: Vec<String>,
    public: bool,
}

/// One module, in its file or inline.
#[derive(Default)]
struct Module {
    file: String,
    bindings: Vec<Binding>,
    children: BTreeSet<String>,
    /// The tokens outside of `use` and `mod`.
    code: Vec<String>,
}

/// The import graph of one crate.
pub(crate) struct Imports {
    modules: BTreeMap<ModulePath, Module>,
    /// File -> file that it imports -> the paths by which it does.
    edges: BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
}

impl Imports {
    /// Of files by their path below `src/`.
    pub(crate) fn of<'t>(files: impl IntoIterator<Item = (&'t str, &'t str)>) -> Self {
        let files: BTreeMap<ModulePath, (&str, Vec<&str>)> = files
            .into_iter()
            .map(|(file, text)| (module_of(file), (file, tokens(text))))
            .collect();
        let test_only: BTreeSet<ModulePath> = files
            .iter()
            .flat_map(|(module, (_, tokens))| test_modules(module, tokens))
            .collect();
        let mut imports = Self {
            modules: BTreeMap::new(),
            edges: BTreeMap::new(),
        };
        for (module, (file, tokens)) in &files {
            if !(0..=module.len()).any(|end| test_only.contains(&module[..end])) {
                imports.read(module.clone(), file, &without_tests(tokens));
            }
        }
        imports.connect();
        imports
    }

    /// Every import: from which file, to which, by which paths.
    pub(crate) fn edges(&self) -> impl Iterator<Item = (&str, &str, &BTreeSet<String>)> {
        self.edges.iter().flat_map(|(from, to)| {
            to.iter()
                .map(move |(to, paths)| (from.as_str(), to.as_str(), paths))
        })
    }

    /// The files that are compiled for more than tests.
    pub(crate) fn files(&self) -> BTreeSet<&str> {
        let files = self.modules.values().map(|module| module.file.as_str());
        files.collect()
    }

    /// Files that import each other, in whatever number of steps; each set once.
    pub(crate) fn circles(&self) -> BTreeSet<BTreeSet<&str>> {
        let reached = |from: &str| {
            let mut found: BTreeSet<&str> = BTreeSet::new();
            let mut left: Vec<&str> = vec![from];
            while let Some(file) = left.pop() {
                for to in self.edges.get(file).into_iter().flat_map(BTreeMap::keys) {
                    if found.insert(to) {
                        left.push(to);
                    }
                }
            }
            found
        };
        let reached: BTreeMap<&str, BTreeSet<&str>> = self
            .edges
            .keys()
            .map(|file| (file.as_str(), reached(file)))
            .collect();
        let mut circles = BTreeSet::new();
        for (file, others) in &reached {
            if others.contains(file) {
                let back = |other: &&str| reached.get(other).is_some_and(|to| to.contains(file));
                circles.insert(others.iter().copied().filter(back).collect());
            }
        }
        circles
    }

    /// The imports within a set of files, one a line.
    pub(crate) fn within(&self, files: &BTreeSet<&str>) -> String {
        let inside = |(from, to, _): &(&str, &str, _)| files.contains(from) && files.contains(to);
        let line = |(from, to, paths): (&str, &str, &BTreeSet<String>)| {
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            format!("  {from} -> {to} ({})", paths.join(", "))
        };
        let lines: Vec<String> = self.edges().filter(inside).map(line).collect();
        lines.join("\n")
    }

    fn read(&mut self, module: ModulePath, file: &str, tokens: &[&str]) {
        let mut found = Module {
            file: file.to_owned(),
            ..Module::default()
        };
        let mut at = 0;
        while let Some(&token) = tokens.get(at) {
            let next = tokens.get(at + 1).copied().unwrap_or_default();
            let after = tokens.get(at + 2).copied().unwrap_or_default();
            match token {
                // `use<..>` bounds what an opaque type captures.
                "use" if next != "<" => {
                    let public = at > 0 && matches!(tokens[at - 1], "pub" | ")");
                    at = use_tree(tokens, at + 1, &[], public, &mut found.bindings) + 1;
                }
                "mod" if after == ";" => {
                    found.children.insert(next.to_owned());
                    at += 3;
                }
                "mod" if after == "{" => {
                    found.children.insert(next.to_owned());
                    let end = item_end(tokens, at);
                    let inner = [module.as_slice(), &[next.to_owned()]].concat();
                    self.read(inner, file, &tokens[at + 3..end - 1]);
                    at = end;
                }
                // Who may see it: no import.
                "pub" if next == "(" => {
                    while tokens[at] != ")" {
                        at += 1;
                    }
                    found.code.push(")".to_owned());
                    at += 1;
                    if tokens.get(at) == Some(&"use") {
                        at = use_tree(tokens, at + 1, &[], true, &mut found.bindings) + 1;
                    }
                }
                _ => {
                    found.code.push(token.to_owned());
                    at += 1;
                }
            }
        }
        self.modules.insert(module, found);
    }

    fn connect(&mut self) {
        let mut edges: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
        for (at, module) in &self.modules {
            let words: BTreeSet<&str> = module.code.iter().map(String::as_str).collect();
            let used = |binding: &&Binding| {
                let named = binding.name.as_deref();
                !binding.public || named.is_none_or(|name| words.contains(name))
            };
            let bound = module.bindings.iter().filter(used);
            let bound = bound.map(|binding| (binding.path.clone(), binding.name.is_none()));
            let written = paths(&module.code).map(|path| (path, false));
            for (path, all_of_it) in bound.chain(written) {
                // A module alone is not yet an import of anything in it.
                let Some((to, item)) = self.resolve(at, &path, &mut BTreeSet::new()) else {
                    continue;
                };
                let file = &self.modules[&to].file;
                if (item || all_of_it) && *file != module.file {
                    let edge = edges.entry(module.file.clone()).or_default();
                    let paths = edge.entry(file.clone()).or_default();
                    paths.insert(path.join("::"));
                }
            }
        }
        self.edges = edges;
    }

    /// The module that a path leads to, and whether it names an item in there; `None` outside of this crate.
    fn resolve(
        &self,
        from: &[String],
        path: &[String],
        seen: &mut BTreeSet<(ModulePath, String)>,
    ) -> Option<(ModulePath, bool)> {
        let mut at = from.to_vec();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => {
                at.clear();
                rest = &path[1..];
            }
            "self" => rest = &path[1..],
            "super" => {
                while rest.first().is_some_and(|first| first == "super") {
                    at.pop()?;
                    rest = &rest[1..];
                }
            }
            first if self.modules[from].children.contains(first) => {}
            // Names that stand alone come from a `use`, or from outside.
            _ => return self.follow(from, path, seen),
        }
        while let Some(segment) = rest.first() {
            let below = [at.as_slice(), std::slice::from_ref(segment)].concat();
            if !self.modules.contains_key(&below) {
                self.modules.get(&at)?;
                let elsewhere = self.follow(&at, rest, seen);
                return elsewhere.or(Some((at, true)));
            }
            at = below;
            rest = &rest[1..];
        }
        Some((at, false))
    }

    /// Goes on with what a `use` of this module says of the first name.
    fn follow(
        &self,
        at: &[String],
        path: &[String],
        seen: &mut BTreeSet<(ModulePath, String)>,
    ) -> Option<(ModulePath, bool)> {
        let (first, rest) = path.split_first()?;
        if !seen.insert((at.to_vec(), first.clone())) {
            return None;
        }
        let bindings = &self.modules.get(at)?.bindings;
        let named = |binding: &&Binding| binding.name.as_ref() == Some(first);
        let whole = |binding: &Binding| [binding.path.as_slice(), rest].concat();
        bindings
            .iter()
            .filter(named)
            .find_map(|binding| self.resolve(at, &whole(binding), seen))
    }
}

fn module_of(file: &str) -> ModulePath {
    let stem = file.strip_suffix(".rs").unwrap_or(file);
    match stem {
        "lib" => vec![],
        _ => stem.split('/').map(str::to_owned).collect(),
    }
}

/// Words, `::` and single characters; no comments, and `""` for whatever is in quotes.
fn tokens(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = quoted(rest) {
            found.push("\"\"");
            length
        } else {
            let raw = rest.strip_prefix("r#").unwrap_or(rest);
            let word = raw.find(|c: char| !c.is_alphanumeric() && c != '_');
            let length = match word.unwrap_or(raw.len()) {
                0 if rest.starts_with("::") => 2,
                0 => first.len_utf8(),
                word => rest.len() - raw.len() + word,
            };
            if !first.is_whitespace() {
                found.push(&rest[..length]);
            }
            length
        };
        rest = &rest[length..];
    }
    found
}

/// How long the text or character is that begins here; a lifetime is neither.
fn quoted(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix(['b', 'c']).unwrap_or(rest);
    let prefix = rest.len() - body.len();
    if let Some(raw) = body.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if let Some(text) = raw[hashes..].strip_prefix('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            return Some(rest.len() - text.len() + text.find(&end)? + end.len());
        }
    }
    if let Some(text) = body.strip_prefix('"') {
        let mut escaped = false;
        let ends = |c: char| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        };
        return Some(prefix + text.find(ends)? + 2);
    }
    let text = body.strip_prefix('\'')?;
    let mut characters = text.chars();
    let first = characters.next()?;
    let inside = if first == '\\' {
        let escape = 1 + characters.next()?.len_utf8();
        escape + text[escape..].find('\'')?
    } else {
        first.len_utf8()
    };
    text[inside..]
        .starts_with('\'')
        .then_some(prefix + inside + 2)
}

/// Where the item ends that begins at `at`: after its block, or after its `;` or `,`.
fn item_end(tokens: &[&str], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while let Some(token) = tokens.get(at) {
        match *token {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" if depth == 0 => return at,
            ")" | "]" | "}" => {
                depth -= 1;
                if depth == 0 && *token == "}" {
                    return at + 1;
                }
            }
            ";" | "," if depth == 0 => return at + 1,
            _ => {}
        }
        at += 1;
    }
    at
}

const FOR_TESTS: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];

/// The index after further attributes.
fn after_attributes(tokens: &[&str], mut at: usize) -> usize {
    while tokens[at..].starts_with(&["#", "["]) {
        let mut depth = 0;
        loop {
            at += 1;
            match tokens[at] {
                "[" => depth += 1,
                "]" if depth == 1 => break,
                "]" => depth -= 1,
                _ => {}
            }
        }
        at += 1;
    }
    at
}

fn without_tests<'t>(tokens: &[&'t str]) -> Vec<&'t str> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at..].starts_with(&FOR_TESTS) {
            at = item_end(tokens, after_attributes(tokens, at + FOR_TESTS.len()));
        } else {
            kept.push(tokens[at]);
            at += 1;
        }
    }
    kept
}

/// The modules in files of their own that are declared for tests alone.
fn test_modules(module: &[String], tokens: &[&str]) -> Vec<ModulePath> {
    let starts = (0..tokens.len()).filter(|at| tokens[*at..].starts_with(&FOR_TESTS));
    let declared = starts.filter_map(|at| {
        let item = after_attributes(tokens, at + FOR_TESTS.len());
        let end = item_end(tokens, item);
        let named = tokens[item..end].iter().position(|token| *token == "mod")?;
        let name = tokens.get(item + named + 1)?;
        Some([module, &[(*name).to_owned()]].concat())
    });
    declared.collect()
}

/// Reads one tree of a `use` and says where it ends.
fn use_tree(
    tokens: &[&str],
    mut at: usize,
    prefix: &[String],
    public: bool,
    found: &mut Vec<Binding>,
) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match tokens[at] {
            "::" => at += 1,
            "{" => {
                at += 1;
                while tokens[at] != "}" {
                    at = use_tree(tokens, at, &path, public, found);
                    at += usize::from(tokens[at] == ",");
                }
                return at + 1;
            }
            "*" => {
                let name = None;
                found.push(Binding { name, path, public });
                return at + 1;
            }
            segment => {
                if segment != "self" || path.is_empty() {
                    path.push(segment.to_owned());
                }
                at += 1;
                if tokens[at] == "::" {
                    continue;
                }
                let mut name = path.last().cloned();
                if tokens[at] == "as" {
                    name = Some(tokens[at + 1].to_owned());
                    at += 2;
                }
                found.push(Binding { name, path, public });
                return at;
            }
        }
    }
}

/// Every `a::b` in the code.
fn paths(code: &[String]) -> impl Iterator<Item = Vec<String>> {
    let word = |at: usize| {
        let first = code.get(at).and_then(|token| token.chars().next());
        first.is_some_and(|first| first.is_alphabetic() || first == '_')
    };
    let colons = |at: usize| code.get(at).is_some_and(|token| token == "::");
    (0..code.len()).filter_map(move |start| {
        if !word(start) || !colons(start + 1) || (start > 0 && colons(start - 1)) {
            return None;
        }
        let mut path = vec![code[start].clone()];
        let mut at = start + 1;
        while colons(at) && word(at + 1) {
            path.push(code[at + 1].clone());
            at += 2;
        }
        Some(path)
    })
}

/// The paths that a file writes which begin with this name, as in `use jitgate::{cli, tls::Route}`.
pub(crate) fn paths_from(text: &str, name: &str) -> Vec<Vec<String>> {
    let tokens = tokens(text);
    let (mut bindings, mut code, mut at) = (Vec::new(), Vec::new(), 0);
    while let Some(token) = tokens.get(at) {
        if *token == "use" && tokens.get(at + 1) != Some(&"<") {
            at = use_tree(&tokens, at + 1, &[], false, &mut bindings);
        } else {
            code.push((*token).to_owned());
            at += 1;
        }
    }
    bindings
        .into_iter()
        .map(|binding| binding.path)
        .chain(paths(&code))
        .filter(|path| path.first().is_some_and(|first| first == name))
        .collect()
}

mod tests {
    use super::*;

    fn circles(files: &[(&str, &str)]) -> Vec<String> {
        let imports = Imports::of(files.iter().copied());
        let joined = |circle: &BTreeSet<&str>| circle.iter().copied().collect::<Vec<_>>().join(" ");
        imports.circles().iter().map(joined).collect()
    }

    fn edges(files: &[(&str, &str)]) -> Vec<String> {
        let imports = Imports::of(files.iter().copied());
        let edge = |(from, to, _): (&str, &str, _)| format!("{from} -> {to}");
        imports.edges().map(edge).collect()
    }

    const ROOT: (&str, &str) = ("lib.rs", "mod a;\nmod b;\nmod c;\n");

    #[test]
    fn a_circle_of_three_files_is_found_however_the_paths_are_written() {
        let a = ("a.rs", "use crate::b::{B, C as D};\npub struct A(B, D);");
        let b = (
            "b.rs",
            "pub struct B; pub struct C;\nfn f() { super::c::g() }",
        );
        let c = ("c.rs", "use crate::a;\npub fn g() { drop(a::A::new()) }");
        assert_eq!(circles(&[ROOT, a, b, c]), ["a.rs b.rs c.rs"]);
        let straight = ("c.rs", "pub fn g() {}");
        assert_eq!(circles(&[ROOT, a, b, straight]), [""; 0]);
    }

    #[test]
    fn a_parent_and_its_child_are_a_circle_when_each_names_what_the_other_defines() {
        let child = ("a/x.rs", "use super::A;\npub fn x(_: A) {}");
        let wired = ("a.rs", "mod x;\npub struct A;\nfn f() { x::x(A) }");
        assert_eq!(circles(&[ROOT, wired, child]), ["a.rs a/x.rs"]);
        let only_declared = ("a.rs", "pub mod x;\npub struct A;");
        assert_eq!(circles(&[ROOT, only_declared, child]), [""; 0]);
        let only_passed_on = ("a.rs", "mod x;\npub(crate) use x::x;\npub struct A;");
        assert_eq!(circles(&[ROOT, only_passed_on, child]), [""; 0]);
        let passed_on_and_used = (
            "a.rs",
            "mod x;\npub use x::x;\npub struct A;\nfn f() { x(A) }",
        );
        assert_eq!(circles(&[ROOT, passed_on_and_used, child]), ["a.rs a/x.rs"]);
    }

    #[test]
    fn a_re_export_is_followed_to_the_file_that_defines_the_item() {
        let files = [
            ROOT,
            ("a.rs", "mod x;\nmod y;\npub use x::X;"),
            ("a/x.rs", "pub struct X;"),
            ("a/y.rs", "fn f() { let _ = super::X; }"),
            ("b.rs", "use crate::a::X;\nfn f(_: X) {}"),
            ("c.rs", "use crate::a::*;"),
        ];
        let expected = ["a/y.rs -> a/x.rs", "b.rs -> a/x.rs", "c.rs -> a.rs"];
        assert_eq!(edges(&files), expected);
    }

    #[test]
    fn what_only_tests_import_does_not_count() {
        let files = [
            ("lib.rs", "mod a;\nmod b;\n#[cfg(test)]\nmod c;"),
            (
                "a.rs",
                "use crate::b::B;\n#[cfg(test)]\nuse crate::b::T;\npub struct A(B);",
            ),
            (
                "b.rs",
                "pub struct B;\n#[cfg(test)]\nmod tests { use crate::a::A; }",
            ),
            ("c.rs", "use crate::a::A;"),
        ];
        assert_eq!(edges(&files), ["a.rs -> b.rs"]);
    }

    #[test]
    fn neither_comments_nor_texts_nor_visibility_are_imports() {
        let text = r##"
            // crate::b::B
            /* crate::b::B */
            pub(in crate::b) fn f<'a>() -> char { let _ = "crate::b::B\""; let _ = r#"crate::b::"B""#; '"' }
            fn g() -> [char; 3] { ['\'', '\u{1f}', b'\\' as char] }
        "##;
        assert_eq!(
            edges(&[ROOT, ("a.rs", text), ("b.rs", "pub struct B;")]),
            [""; 0]
        );
        let after = format!("{text}\nfn h() {{ crate::b::B }}");
        let files = [ROOT, ("a.rs", after.as_str()), ("b.rs", "pub struct B;")];
        assert_eq!(edges(&files), ["a.rs -> b.rs"]);
    }
}
