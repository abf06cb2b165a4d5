//! The small HTTP listener beside each role: `/livez`, `/readyz`, `/metrics`, and what the role adds.
