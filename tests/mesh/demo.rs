//! `jitgate dev` as the README shows it: it comes up, prints what to try, and Ctrl-C ends every process.
