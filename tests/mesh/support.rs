//! What the tests of this ring stand on.

pub mod caller;
pub mod flows;
pub mod gate;
pub mod identity;
pub mod network;
pub mod otlp_sink;
pub mod process;
pub mod raw_http;
pub mod spellings;
pub mod streams;
pub mod upstream;
pub mod wall_clock;
pub mod world;
