//! `issuers.yaml`: read strictly into issuers. Whatever is wrong with it is one line that names the place and the way out.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde::Deserialize;
use serde_saphyr::{Location, MessageFormatter as _, Spanned, UserMessageFormatter};

use super::keyring::{Keyring, Pace};
use super::source::{Format, KeyFile, Remote, Source, read_bounded};
use super::terms::{Issuer, Terms};
use crate::jose::Algorithm;
use crate::jose::keys::KeySet;
use crate::model::identity::Principal;
use crate::support::duration;

const ISSUERS_MAX: usize = 64;
const ISSUER_MAX: usize = 512;
const LEEWAY_DEFAULT: Duration = Duration::from_secs(5);
const LEEWAY_MAX: Duration = Duration::from_secs(60);
const INTERVAL: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(86_400));
const COOLDOWN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3_600));
const SHARED_SECRET: [Algorithm; 3] = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Document {
    api_version: Spanned<String>,
    kind: Spanned<String>,
    issuers: Spanned<Vec<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Entry {
    issuer: Spanned<String>,
    audiences: Spanned<Vec<String>>,
    algorithms: Option<Spanned<Vec<String>>>,
    groups_claim: Option<Spanned<String>>,
    jwks: Option<Spanned<serde_json::Value>>,
    jwks_file: Option<Spanned<PathBuf>>,
    jwks_url: Option<Spanned<String>>,
    secret_file: Option<Spanned<PathBuf>>,
    ca_file: Option<Spanned<PathBuf>>,
    leeway: Option<Spanned<String>>,
    refresh_interval: Option<Spanned<String>>,
    refetch_cooldown: Option<Spanned<String>>,
}

/// Reads the file at `path`; key files are found relative to it.
pub(super) fn load(path: &Path) -> anyhow::Result<Vec<Issuer>> {
    let bytes = read_bounded(path).context("--issuers: the file cannot be read")?;
    let text =
        String::from_utf8(bytes).map_err(|_| anyhow!("{}: is no UTF-8 text", path.display()))?;
    parse(&text, path)
}

/// Reads `text` as the file at `path`.
pub(super) fn parse(text: &str, path: &Path) -> anyhow::Result<Vec<Issuer>> {
    let file = Place(path);
    if text.trim().is_empty() {
        return Err(anyhow!(
            "{}: is empty; it needs apiVersion, kind and issuers",
            path.display()
        ));
    }
    let document: Document = serde_saphyr::from_str(text).map_err(|error| file.syntax(&error))?;
    let Document {
        api_version,
        kind,
        issuers,
    } = document;
    if api_version.value != "jitgate.dev/v1" {
        return Err(file.wrong(&api_version, "apiVersion: must be jitgate.dev/v1"));
    }
    if kind.value != "Issuers" {
        return Err(file.wrong(&kind, "kind: must be Issuers"));
    }
    if issuers.value.is_empty() || issuers.value.len() > ISSUERS_MAX {
        return Err(file.wrong(
            &issuers,
            format!("issuers: must list 1 to {ISSUERS_MAX} issuers"),
        ));
    }
    let mut parsed: Vec<Issuer> = Vec::new();
    for entry in issuers.value {
        if parsed
            .iter()
            .any(|other| *other.terms.issuer == *entry.issuer.value)
        {
            return Err(file.wrong(
                &entry.issuer,
                "issuer: is configured twice; keep one entry for each",
            ));
        }
        parsed.push(entry.parse(file)?);
    }
    Ok(parsed)
}

impl Entry {
    fn parse(self, file: Place<'_>) -> anyhow::Result<Issuer> {
        let terms = self.terms(file)?;
        let pace = self.pace(file)?;
        let (name, place) = self.key_field(file)?;
        let (source, keys) = self.source(file, &terms)?;
        if let (Some(keys), Some(algorithms)) = (&keys, &terms.algorithms)
            && !keys.serves(algorithms)
        {
            let what = format!(
                "{name}: has no key for one of the issuer's algorithms; change one or the other"
            );
            return Err(file.at(place, what));
        }
        let keyring = Keyring::new(Arc::clone(&terms.issuer), source, pace, keys);
        Ok(Issuer { terms, keyring })
    }

    fn terms(&self, file: Place<'_>) -> anyhow::Result<Terms> {
        let issuer = &self.issuer;
        if issuer.value.len() > ISSUER_MAX || Principal::user(&issuer.value, "x").is_err() {
            let what = format!(
                "issuer: must be 1 to {ISSUER_MAX} bytes, without '|' and control characters"
            );
            return Err(file.wrong(issuer, what));
        }
        let audiences = &self.audiences;
        if audiences.value.is_empty() || audiences.value.iter().any(String::is_empty) {
            let what = "audiences: must list at least one \"aud\" that tokens for us carry, and no empty one";
            return Err(file.wrong(audiences, what));
        }
        let groups_claim = match &self.groups_claim {
            Some(claim) if claim.value.is_empty() => {
                return Err(file.wrong(
                    claim,
                    "groupsClaim: must name a claim; leave it out for \"groups\"",
                ));
            }
            Some(claim) => claim.value.as_str().into(),
            None => "groups".into(),
        };
        Ok(Terms {
            issuer: issuer.value.as_str().into(),
            audiences: audiences.value.clone(),
            algorithms: self.algorithms(file)?,
            groups_claim,
            leeway: file.duration(
                "leeway",
                self.leeway.as_ref(),
                (Duration::ZERO, LEEWAY_MAX),
                LEEWAY_DEFAULT,
            )?,
        })
    }

    fn algorithms(&self, file: Place<'_>) -> anyhow::Result<Option<Vec<Algorithm>>> {
        let Some(names) = &self.algorithms else {
            return match &self.secret_file {
                Some(secret) => {
                    let what =
                        "secretFile: needs algorithms beside it, from HS256, HS384 and HS512";
                    Err(file.wrong(secret, what))
                }
                None => Ok(None),
            };
        };
        let mut algorithms = Vec::new();
        for name in &names.value {
            let algorithm: Algorithm = name.parse().map_err(|_| {
                let known = "ES256, ES384, RS256, RS384, RS512, PS256, PS384, PS512, EdDSA, HS256, HS384, HS512";
                file.wrong(names, format!("algorithms: {name:?} is none of {known}"))
            })?;
            if SHARED_SECRET.contains(&algorithm) != self.secret_file.is_some() {
                let what =
                    "algorithms: HS256, HS384 and HS512 go with secretFile, and nothing else does";
                return Err(file.wrong(names, what));
            }
            if !algorithms.contains(&algorithm) {
                algorithms.push(algorithm);
            }
        }
        match algorithms.is_empty() {
            true => Err(file.wrong(
                names,
                "algorithms: is empty; leave it out for all that the keys allow",
            )),
            false => Ok(Some(algorithms)),
        }
    }

    fn pace(&self, file: Place<'_>) -> anyhow::Result<Pace> {
        let usual = Pace::default();
        Ok(Pace {
            interval: file.duration(
                "refreshInterval",
                self.refresh_interval.as_ref(),
                INTERVAL,
                usual.interval,
            )?,
            cooldown: file.duration(
                "refetchCooldown",
                self.refetch_cooldown.as_ref(),
                COOLDOWN,
                usual.cooldown,
            )?,
        })
    }

    /// The one field that says where the keys are, and its place.
    fn key_field(&self, file: Place<'_>) -> anyhow::Result<(&'static str, Location)> {
        let fields = [
            self.jwks.as_ref().map(|field| ("jwks", field.referenced)),
            self.jwks_file
                .as_ref()
                .map(|field| ("jwksFile", field.referenced)),
            self.jwks_url
                .as_ref()
                .map(|field| ("jwksUrl", field.referenced)),
            self.secret_file
                .as_ref()
                .map(|field| ("secretFile", field.referenced)),
        ];
        let mut present = fields.into_iter().flatten();
        let (Some(field), None) = (present.next(), present.next()) else {
            let what = "issuer: needs exactly one of jwks, jwksFile, jwksUrl and secretFile";
            return Err(file.wrong(&self.issuer, what));
        };
        if let Some(ca) = self.ca_file.as_ref().filter(|_| self.jwks_url.is_none()) {
            return Err(file.wrong(ca, "caFile: goes with jwksUrl only; remove it"));
        }
        Ok(field)
    }

    fn source(self, file: Place<'_>, terms: &Terms) -> anyhow::Result<(Source, Option<KeySet>)> {
        if let Some(jwks) = self.jwks {
            let keys = KeySet::from_jwks(jwks.value.to_string().as_bytes());
            let keys = keys.map_err(|error| file.wrong(&jwks, format!("jwks: {error:#}")))?;
            return Ok((Source::Inline, Some(keys)));
        }
        if let Some(url) = self.jwks_url {
            let ca = self.ca_file.map(|ca| file.beside(&ca.value));
            let remote = Remote::new(&url.value, ca.as_deref());
            let remote = remote.map_err(|error| file.wrong(&url, format!("jwksUrl: {error:#}")))?;
            return Ok((Source::Remote(remote), None));
        }
        let (name, field, format) = match (self.jwks_file, self.secret_file) {
            (Some(field), _) => ("jwksFile", field, Format::Jwks),
            (None, Some(field)) => (
                "secretFile",
                field,
                Format::Secret(terms.algorithms.clone().unwrap_or_default()),
            ),
            (None, None) => return Err(file.wrong(&self.issuer, "issuer: has no keys")),
        };
        let source = KeyFile::new(file.beside(&field.value), format);
        let keys = source
            .read()
            .map_err(|error| file.wrong(&field, format!("{name}: {error:#}")))?;
        Ok((Source::File(source), Some(keys)))
    }
}

/// The file that errors speak of.
#[derive(Clone, Copy)]
struct Place<'a>(&'a Path);

impl Place<'_> {
    fn at(self, location: Location, what: impl std::fmt::Display) -> anyhow::Error {
        anyhow!(
            "{}:{}:{}: {what}",
            self.0.display(),
            location.line(),
            location.column()
        )
    }

    fn wrong<T>(self, field: &Spanned<T>, what: impl std::fmt::Display) -> anyhow::Error {
        self.at(field.referenced, what)
    }

    fn syntax(self, error: &serde_saphyr::Error) -> anyhow::Error {
        let what = UserMessageFormatter.format_message(error.without_snippet());
        match error.location() {
            Some(location) => self.at(location, what),
            None => anyhow!("{}: {what}", self.0.display()),
        }
    }

    /// A path written in the file.
    fn beside(self, path: &Path) -> PathBuf {
        self.0
            .parent()
            .map_or_else(|| path.to_path_buf(), |directory| directory.join(path))
    }

    fn duration(
        self,
        name: &str,
        field: Option<&Spanned<String>>,
        (least, most): (Duration, Duration),
        default: Duration,
    ) -> anyhow::Result<Duration> {
        let Some(field) = field else {
            return Ok(default);
        };
        duration::parse_within(&field.value, least..=most)
            .map_err(|error| self.wrong(field, format!("{name}: {error}")))
    }
}

#[cfg(test)]
mod tests;
