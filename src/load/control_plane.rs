//! A control plane of the tool's own: a process with a fresh data directory, a policy that approves everything the tool
//! asks for, and an issuer that only the tool has the key of. All of it is gone afterwards.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::KeyPair;
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::time::Instant;
use ulid::Ulid;

use crate::clock;

const ISSUER: &str = "https://bench.jitgate.local";
const TOKEN_LIFE_SECONDS: u64 = 3600;
/// The end of a killed process.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// The process and its files.
pub(super) struct SpawnedControlPlane {
    dir: Scratch,
    program: PathBuf,
    key: KeyPair,
    grpc: u16,
    http: u16,
    child: Child,
}

/// A directory that goes away with its owner.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is left to whoever cleans the temporary directory.
        drop(fs::remove_dir_all(&self.0));
    }
}

impl SpawnedControlPlane {
    /// Starts the program; it may not answer yet.
    pub(super) fn start(program: Option<PathBuf>, service: &str) -> anyhow::Result<Self> {
        let program = match program {
            Some(program) => program,
            None => beside()?,
        };
        let dir = Scratch(std::env::temp_dir().join(format!("jitgate-bench-{}", Ulid::generate())));
        fs::create_dir_all(dir.0.join("policies"))
            .with_context(|| format!("{}", dir.0.display()))?;
        let key = KeyPair::generate().context("a signing key")?;
        fs::write(dir.0.join("policies/bench.yaml"), policy(service))?;
        fs::write(
            dir.0.join("jwks.json"),
            json!({ "keys": [jwk(&key)?] }).to_string(),
        )?;
        fs::write(dir.0.join("issuers.yaml"), issuers())?;
        let (grpc, http) = (free_port()?, free_port()?);
        let child = spawn(&program, &dir.0, grpc, http)?;
        Ok(Self {
            dir,
            program,
            key,
            grpc,
            http,
            child,
        })
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    pub(super) fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.grpc)
    }

    /// A token whose access requests are approved at once.
    pub(super) fn token(&self) -> anyhow::Result<String> {
        let now = clock::wall().as_micros() / 1_000_000;
        let claims = json!({ "iss": ISSUER, "sub": "bench", "aud": "jitgate", "iat": now, "exp": now + TOKEN_LIFE_SECONDS });
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some("bench".to_owned());
        Ok(encode(
            &header,
            &claims,
            &EncodingKey::from_ec_der(self.key.serialized_der()),
        )?)
    }

    /// Kills the process without a warning.
    pub(super) async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.start_kill()?;
        if tokio::time::timeout(GONE_WITHIN, self.child.wait())
            .await
            .is_err()
        {
            bail!("the control plane does not end");
        }
        Ok(())
    }

    /// Starts it again on the same store; the moment of the start.
    pub(super) fn start_again(&mut self) -> anyhow::Result<Instant> {
        let began = Instant::now();
        self.child = spawn(&self.program, &self.dir.0, self.grpc, self.http)?;
        Ok(began)
    }
}

fn spawn(program: &Path, dir: &Path, grpc: u16, http: u16) -> anyhow::Result<Child> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(dir.join("control-plane.log"))?;
    let flags = [
        ("--listen", format!("127.0.0.1:{grpc}").into()),
        ("--http-listen", format!("127.0.0.1:{http}").into()),
        ("--probe-listen", "127.0.0.1:0".into()),
        ("--data-dir", dir.join("data")),
        ("--policies", dir.join("policies")),
        ("--issuers", dir.join("issuers.yaml")),
    ];
    let mut command = Command::new(program);
    command.arg("control-plane");
    for (flag, value) in flags {
        command.arg(flag).arg(value);
    }
    let started = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn();
    started.with_context(|| format!("--jitgate: {} cannot be started", program.display()))
}

/// The `jitgate` that was built together with this program.
fn beside() -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe().context("where this program is")?;
    let program = here.with_file_name("jitgate");
    if !program.is_file() {
        bail!(
            "there is no jitgate beside {}: name one with --jitgate",
            here.display()
        );
    }
    Ok(program)
}

/// A port that is free now.
fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .context("a free port")?
        .port())
}

fn jwk(key: &KeyPair) -> anyhow::Result<serde_json::Value> {
    let point = key.public_key_raw();
    let (Some(x), Some(y), 65) = (point.get(1..33), point.get(33..65), point.len()) else {
        bail!("is no P-256 key")
    };
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    Ok(
        json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y, "alg": "ES256", "use": "sig", "kid": "bench" }),
    )
}

fn issuers() -> String {
    format!(
        "apiVersion: jitgate.dev/v1\nkind: Issuers\nissuers:\n  - issuer: {ISSUER}\n    audiences: [jitgate]\n    \
         algorithms: [ES256]\n    jwksFile: jwks.json\n"
    )
}

fn policy(service: &str) -> String {
    format!(
        "apiVersion: jitgate.dev/v1\nkind: AccessPolicy\nmetadata: {{name: bench}}\nspec:\n  requesters: \
         [\"user:{ISSUER}|bench\"]\n  allowWildcard: true\n  scope:\n    service: {service}\n    grpc: [\"*\"]\n  \
         duration: {{default: 15m, max: 1h}}\n  auto:\n    - {{name: bench, when: \"true\", effect: APPROVE, \
         maxDuration: 1h}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::policy::check;
    use crate::jose::issuers::Issuers;

    #[test]
    fn the_files_that_it_writes_are_ones_that_the_control_plane_takes() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("bench.yaml"), policy("payments")).unwrap();
        let checked = check(dir.path());
        assert!(checked.set.is_some(), "{:?}", checked.problems);
        let key = KeyPair::generate().unwrap();
        fs::write(
            dir.path().join("jwks.json"),
            json!({ "keys": [jwk(&key).unwrap()] }).to_string(),
        )
        .unwrap();
        Issuers::parse(&issuers(), &dir.path().join("issuers.yaml")).unwrap();
    }
}
