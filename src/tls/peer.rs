//! Who is at the other end. An X.509-SVID names exactly one SPIFFE ID; anything else is no identity.

use std::net::SocketAddr;

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::model::identity::{Principal, PrincipalError, PrincipalKind};

/// The other end of a connection; in the extensions of each of its requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The SPIFFE ID of its verified certificate.
    pub spiffe: Option<Principal>,
    /// Its address; `None` on a Unix socket.
    pub addr: Option<SocketAddr>,
    /// True when the connection is encrypted.
    pub tls: bool,
}

/// Why a verified certificate names nobody.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Not DER, or its names cannot be read.
    #[error("the peer's certificate cannot be read: {0}")]
    Certificate(String),
    /// X509-SVID, section 2: exactly one URI SAN.
    #[error("the peer's certificate has {0} URI names; a SPIFFE identity has exactly one")]
    Several(usize),
    /// The one URI is no canonical SPIFFE ID.
    #[error("the peer's URI name {0:?} {1}")]
    NotSpiffe(String, PrincipalError),
    /// The one URI is a principal of another kind.
    #[error("the peer's URI name {0:?} is no SPIFFE ID")]
    NotWorkload(String),
}

/// The SPIFFE ID in a certificate that has been verified already; `None` when it carries no URI name at all.
///
/// # Errors
/// When it carries several, or one that is not a canonical SPIFFE ID: never guess which was meant.
pub fn peer_spiffe(der: &[u8]) -> Result<Option<Principal>, PeerError> {
    let unreadable = |error: &dyn std::fmt::Display| PeerError::Certificate(error.to_string());
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| unreadable(&error))?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|error| unreadable(&error))?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| {
            if let GeneralName::URI(uri) = name {
                Some(*uri)
            } else {
                None
            }
        })
        .collect();
    let uri = match uris.as_slice() {
        [] => return Ok(None),
        [uri] => *uri,
        several => return Err(PeerError::Several(several.len())),
    };
    let principal =
        Principal::parse(uri).map_err(|error| PeerError::NotSpiffe(uri.to_owned(), error))?;
    match principal.kind() {
        PrincipalKind::Workload => Ok(Some(principal)),
        PrincipalKind::User | PrincipalKind::Group => Err(PeerError::NotWorkload(uri.to_owned())),
    }
}
