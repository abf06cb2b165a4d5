//! Whether denials are enforced, and the proof that an operator asked for shadow mode.

/// Whether denials are enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// What is denied is refused.
    Enforce,
    /// Everything passes; what would have been refused is marked, recorded and counted.
    Shadow,
}

/// Proof that the operator asked for shadow mode. Only [`Mode::shadow`] makes one.
#[derive(Debug, Clone, Copy)]
pub struct Shadow(());

impl Mode {
    /// The witness, in shadow mode.
    pub fn shadow(self) -> Option<Shadow> {
        match self {
            Self::Enforce => None,
            Self::Shadow => Some(Shadow(())),
        }
    }
}
