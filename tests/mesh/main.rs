//! The ring of real processes: control plane, sidecar, the shipped configuration in a real Envoy, real TLS, real tokens.

#![expect(unreachable_pub, reason = "a test binary has no outside")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failing test panics"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "tests of real processes live in real time"
)]
#![expect(
    clippy::print_stdout,
    reason = "what was measured is printed, never asserted"
)]

mod as_code;
mod bad_starts;
mod calls;
mod clocks;
mod crashes;
mod demo;
mod failures;
mod figures;
mod garbage;
mod jaeger;
mod leash;
mod lifecycle;
mod main_job;
mod neighbours;
mod partitions;
mod races;
mod rotation;
mod spellings_through_envoy;
mod story;
mod streams;
mod support;
mod tokens;
mod traces;

use support::world::{Settings, World};
use support::{process, raw_http, upstream};

/// A mesh with Envoy in front of an echoing upstream, and one open connection to it.
struct Mesh {
    world: World,
    connection: raw_http::Connection,
    connector: tokio_rustls::TlsConnector,
}

impl Mesh {
    async fn start(settings: Settings) -> Self {
        let upstream = upstream::serve().await;
        let world = tokio::task::block_in_place(|| World::with_envoy(settings, upstream));
        let connector = raw_http::connector(&world.client);
        let connection = raw_http::Connection::open(&connector, world.envoy_port)
            .await
            .unwrap();
        Self {
            world,
            connection,
            connector,
        }
    }

    /// `GET target` with `sub`'s token.
    async fn call(&mut self, sub: &str, target: &str) -> raw_http::Answer {
        let bearer = format!("Bearer {}", self.world.identities.token(sub, &["sre"]));
        self.call_with(target.as_bytes(), &[("authorization", &bearer)])
            .await
    }

    /// Sends the bytes; opens a new connection where Envoy closed the last one.
    async fn call_with(&mut self, target: &[u8], headers: &[(&str, &str)]) -> raw_http::Answer {
        for _ in 0..3 {
            match self.connection.request("GET", target, headers).await {
                Ok(answer) => {
                    // Envoy lingers for a while on a connection that it is about to close.
                    if answer.header("connection") == "close" {
                        let opened =
                            raw_http::Connection::open(&self.connector, self.world.envoy_port)
                                .await;
                        self.connection = opened.unwrap();
                    }
                    return answer;
                }
                Err(_) => {
                    let opened =
                        raw_http::Connection::open(&self.connector, self.world.envoy_port).await;
                    self.connection = opened.unwrap();
                }
            }
        }
        panic!(
            "Envoy closes the connection on {:?}",
            String::from_utf8_lossy(target)
        );
    }

    /// Asks as `sub` of group sre, and returns the grant's id.
    fn grant(&self, sub: &str, rule: &str, span: &str) -> String {
        let args = [
            "request",
            "--service",
            "payments",
            "--http",
            rule,
            "--for",
            span,
            "--reason",
            "a test",
            "--wait",
        ];
        let answer = tokio::task::block_in_place(|| self.world.jitgate_json(sub, &["sre"], &args));
        let id = answer["grant"]
            .as_str()
            .or_else(|| answer["grant"]["id"].as_str());
        id.unwrap_or_else(|| panic!("no grant in {answer}"))
            .to_owned()
    }

    /// When a grant ends.
    fn end_of(&self, sub: &str, id: &str) -> std::time::SystemTime {
        let shown = tokio::task::block_in_place(|| {
            self.world
                .jitgate_json(sub, &["sre"], &["grants", "show", id])
        });
        humantime::parse_rfc3339(shown["expireTime"].as_str().unwrap()).unwrap()
    }

    /// Calls until the answer has this status; fails when it never does.
    async fn until(&mut self, sub: &str, target: &str, status: u16) -> raw_http::Answer {
        let start = std::time::Instant::now();
        loop {
            let answer = self.call(sub, target).await;
            if answer.status == status {
                return answer;
            }
            assert!(
                start.elapsed() < process::PATIENCE,
                "still {answer:?} instead of {status}"
            );
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
}
