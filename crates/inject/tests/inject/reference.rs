//! The documentation's tables are those of the code.

use std::fmt::Write as _;

use jitgate_inject::{ANNOTATIONS, PREFIX};

const DOCUMENTATION: &str = include_str!("../../../../docs/kubernetes.md");

#[test]
fn the_documentation_has_every_annotation_as_it_is() {
    let mut table =
        "| annotation | value | default | on pods | |\n|---|---|---|---|---|\n".to_owned();
    for annotation in ANNOTATIONS {
        let default = match annotation.default {
            "" => "none".to_owned(),
            default => format!("`{default}`"),
        };
        let on_pods = if annotation.reserved { "no" } else { "yes" };
        writeln!(
            table,
            "| `{PREFIX}{}` | {} | {default} | {on_pods} | {} |",
            annotation.name, annotation.value, annotation.meaning
        )
        .unwrap();
    }
    assert!(
        DOCUMENTATION.contains(&table),
        "docs/kubernetes.md must contain:\n{table}"
    );
}
