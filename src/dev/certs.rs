//! A certificate authority for one machine, and what it signs: SPIFFE identities of the trust domain `jitgate.local`.
//!
//! All certificates are made in one go and the authority's own key is then dropped: it is never written anywhere.

use std::time::Duration;

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use x509_parser::pem::parse_x509_pem;

use crate::model::time::Timestamp;

use super::super::cli::error::CliError;
use super::state::StateDir;

/// The control plane's identity.
pub(crate) const CONTROL_PLANE: &str = "spiffe://jitgate.local/ns/jitgate/sa/control-plane";
/// The sidecar's identity, and that of the Envoy beside it.
pub(crate) const PAYMENTS: &str = "spiffe://jitgate.local/ns/demo/sa/payments";
/// The demo client's identity.
pub(crate) const CHECKOUT: &str = "spiffe://jitgate.local/ns/demo/sa/checkout";

/// Another workload of the demo, which holds a standing grant.
pub(crate) const PROBER: &str = "spiffe://jitgate.local/ns/demo/sa/prober";

/// What is signed: the files' stem, the SPIFFE ID, and whether it also answers as localhost.
const LEAVES: [(&str, &str, bool); 5] = [
    ("control-plane", CONTROL_PLANE, true),
    ("sidecar", PAYMENTS, false),
    ("envoy", PAYMENTS, true),
    ("client", CHECKOUT, false),
    ("prober", PROBER, false),
];

const VALID: Duration = Duration::from_secs(30 * 24 * 3600);
const RENEW_BEFORE: Duration = Duration::from_secs(2 * 24 * 3600);
/// For clocks that lag.
const BACKDATED: Duration = Duration::from_secs(3600);

/// Makes certificates and keys unless all of them are there and good for a while.
///
/// # Errors
/// When they cannot be made or written.
pub(crate) fn ensure(state: &StateDir, now: Timestamp) -> Result<(), CliError> {
    let good = |stem: &str| {
        let pem = state.read(&format!("{stem}.pem")).ok();
        pem.and_then(|pem| expiry(&pem))
            .is_some_and(|end| end > now.plus(RENEW_BEFORE))
    };
    let complete = |stem: &str| good(stem) && state.at(&format!("{stem}.key")).exists();
    if good("ca") && LEAVES.iter().all(|(stem, ..)| complete(stem)) {
        return Ok(());
    }
    for (name, text) in generate(now)? {
        state.write(&name, &text)?;
    }
    Ok(())
}

/// File names and PEM texts, the certificate of the authority last: until it is there, nothing is complete.
fn generate(now: Timestamp) -> anyhow::Result<Vec<(String, String)>> {
    let mut params = validity(CertificateParams::default(), now);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
        .distinguished_name
        .push(DnType::CommonName, "jitgate dev");
    let key = KeyPair::generate()?;
    let own = params.self_signed(&key)?;
    let authority = Issuer::new(params, key);
    let mut files = Vec::new();
    for (stem, spiffe, local) in LEAVES {
        let (certificate, key) = leaf(&authority, spiffe, local, now)
            .with_context(|| format!("certificate for {spiffe}"))?;
        files.push((format!("{stem}.pem"), certificate));
        files.push((format!("{stem}.key"), key));
    }
    files.push(("ca.pem".to_owned(), own.pem()));
    Ok(files)
}

fn leaf(
    authority: &Issuer<'_, KeyPair>,
    spiffe: &str,
    local: bool,
    now: Timestamp,
) -> anyhow::Result<(String, String)> {
    let mut params = validity(CertificateParams::default(), now);
    params
        .subject_alt_names
        .push(SanType::URI(spiffe.try_into()?));
    if local {
        params
            .subject_alt_names
            .push(SanType::DnsName("localhost".try_into()?));
        params
            .subject_alt_names
            .push(SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()));
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, authority)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn validity(mut params: CertificateParams, now: Timestamp) -> CertificateParams {
    params.not_before = now.minus(BACKDATED).to_system().into();
    params.not_after = now.plus(VALID).to_system().into();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
}

fn expiry(pem: &str) -> Option<Timestamp> {
    let (_, pem) = parse_x509_pem(pem.as_bytes()).ok()?;
    let seconds = pem.parse_x509().ok()?.validity().not_after.timestamp();
    Some(Timestamp::from_micros(
        u64::try_from(seconds).ok()?.saturating_mul(1_000_000),
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use x509_parser::extensions::GeneralName;

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_900_000_000_000_000);

    fn state() -> (tempfile::TempDir, StateDir) {
        let parent = tempfile::tempdir().unwrap();
        let state = StateDir::create(parent.path()).unwrap();
        ensure(&state, NOW).unwrap();
        (parent, state)
    }

    #[test]
    fn every_leaf_has_its_spiffe_id_as_the_first_san_and_verifies() {
        let (_parent, state) = state();
        let ca = state.read("ca.pem").unwrap();
        let (_, ca) = parse_x509_pem(ca.as_bytes()).unwrap();
        let ca = ca.parse_x509().unwrap();
        assert!(ca.is_ca());
        for (stem, spiffe, local) in LEAVES {
            let pem = state.read(&format!("{stem}.pem")).unwrap();
            let (_, pem) = parse_x509_pem(pem.as_bytes()).unwrap();
            let leaf = pem.parse_x509().unwrap();
            let names = &leaf
                .subject_alternative_name()
                .unwrap()
                .unwrap()
                .value
                .general_names;
            assert_eq!(names[0], GeneralName::URI(spiffe), "{stem}");
            assert_eq!(
                names.contains(&GeneralName::DNSName("localhost")),
                local,
                "{stem}"
            );
            assert_eq!(leaf.issuer(), ca.subject(), "{stem}");
            assert!(!leaf.is_ca(), "{stem}");
        }
    }

    #[test]
    fn keys_are_for_their_owner_only_and_the_authoritys_is_nowhere() {
        let (_parent, state) = state();
        for (stem, ..) in LEAVES {
            let mode = std::fs::metadata(state.at(&format!("{stem}.key")))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{stem}");
        }
        assert!(!state.at("ca.key").exists());
    }

    #[test]
    fn certificates_are_kept_until_their_end_is_near() {
        let (_parent, state) = state();
        let first = state.read("client.pem").unwrap();
        ensure(
            &state,
            NOW.plus(VALID - RENEW_BEFORE - Duration::from_secs(60)),
        )
        .unwrap();
        assert_eq!(state.read("client.pem").unwrap(), first);
        ensure(
            &state,
            NOW.plus(VALID - RENEW_BEFORE + Duration::from_secs(60)),
        )
        .unwrap();
        assert_ne!(state.read("client.pem").unwrap(), first);
    }

    #[test]
    fn a_missing_or_broken_file_makes_everything_anew() {
        let (_parent, state) = state();
        for broken in ["sidecar.key", "ca.pem"] {
            let first = state.read("client.pem").unwrap();
            std::fs::remove_file(state.at(broken)).unwrap();
            ensure(&state, NOW).unwrap();
            assert_ne!(state.read("client.pem").unwrap(), first, "{broken}");
        }
    }
}
