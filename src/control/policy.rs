//! Policies: which file says what, and how an access request is ruled on.

mod condition;
mod load;
mod node;
mod problem;
mod read;
