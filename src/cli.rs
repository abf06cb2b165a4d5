//! The `jitgate` command line: one function a verb, and the only place that prints.
