//! The `jitgate-sidecar` binary: the data plane and nothing else.

fn main() {}
