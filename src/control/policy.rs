//! Policies: which file says what, and how an access request is ruled on.
