//! The `jitgate` binary: control plane, command line and `dev`.

fn main() {}
