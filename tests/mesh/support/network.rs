//! A network of a test's own: a namespace for one sidecar, with one link to the control plane, which can be cut and
//! slowed, and another by which the test looks at the sidecar all the while. Made with `ip` and `tc`; needs root.

use std::io::Write as _;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

/// A hardware address that nobody has: frames to it are lost without a word.
const NOBODY: &str = "02:00:00:00:00:99";

static NEXT: AtomicU8 = AtomicU8::new(0);

/// The namespace and its two links. Dropping it takes them down.
#[derive(Debug)]
pub struct Network {
    name: String,
    subnet: u8,
}

impl Network {
    /// `None` (said loudly) where this is not permitted.
    pub fn create() -> Option<Self> {
        // Test binaries that run at the same time must not meet.
        let number = (std::process::id() % 31) as u8 * 8 + NEXT.fetch_add(1, Ordering::SeqCst) % 8;
        let network = Self {
            name: format!("jitgate-{}-{number}", std::process::id()),
            subnet: number,
        };
        if let Err(why) = network.set_up() {
            skipped(&format!("no network namespace for a partition: {why}"));
            return None;
        }
        Some(network)
    }

    fn set_up(&self) -> Result<(), String> {
        let name = self.name.clone();
        run("ip", &["netns", "add", &name])?;
        for (link, inside, address, peer) in [
            (
                self.link(),
                "watch",
                self.control_host(),
                self.address(231, 2),
            ),
            (
                format!("jga{}", self.subnet),
                "admin",
                self.address(232, 1),
                self.sidecar_host(),
            ),
        ] {
            run(
                "ip",
                &[
                    "link", "add", &link, "type", "veth", "peer", "name", inside, "netns", &name,
                ],
            )?;
            run(
                "ip",
                &["addr", "add", &format!("{address}/30"), "dev", &link],
            )?;
            run("ip", &["link", "set", &link, "up"])?;
            run(
                "ip",
                &[
                    "-n",
                    &name,
                    "addr",
                    "add",
                    &format!("{peer}/30"),
                    "dev",
                    inside,
                ],
            )?;
            run("ip", &["-n", &name, "link", "set", inside, "up"])?;
        }
        run("ip", &["-n", &name, "link", "set", "lo", "up"])
    }

    fn address(&self, net: u8, host: u8) -> String {
        format!("10.{net}.{}.{host}", self.subnet)
    }

    fn link(&self) -> String {
        format!("jgw{}", self.subnet)
    }

    /// Where the control plane listens.
    pub fn control_host(&self) -> String {
        self.address(231, 1)
    }

    /// Where the test sees the sidecar, whatever happens to the other link.
    pub fn sidecar_host(&self) -> String {
        self.address(232, 2)
    }

    /// What comes before a program so that it runs inside. It keeps its process id.
    pub fn inside(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.name]
            .map(str::to_owned)
            .to_vec()
    }

    /// What the sidecar sends arrives nowhere.
    pub fn lose_from_sidecar(&self) {
        let control = self.control_host();
        let lost = [
            "-n",
            &self.name,
            "neigh",
            "replace",
            &control,
            "lladdr",
            NOBODY,
            "dev",
            "watch",
            "nud",
            "permanent",
        ];
        run("ip", &lost).unwrap();
    }

    /// What the control plane sends arrives nowhere.
    pub fn lose_from_control(&self) {
        let (sidecar, link) = (self.address(231, 2), self.link());
        run(
            "ip",
            &[
                "neigh",
                "replace",
                &sidecar,
                "lladdr",
                NOBODY,
                "dev",
                &link,
                "nud",
                "permanent",
            ],
        )
        .unwrap();
    }

    /// Everything arrives again.
    pub fn heal(&self) {
        let (control, sidecar, link) = (self.control_host(), self.address(231, 2), self.link());
        // What was not lost is not there to be deleted.
        drop(run(
            "ip",
            &["-n", &self.name, "neigh", "del", &control, "dev", "watch"],
        ));
        drop(run("ip", &["neigh", "del", &sidecar, "dev", &link]));
        drop(run("tc", &["qdisc", "del", "dev", &link, "root"]));
    }

    /// The control plane's end sends no more than this; `false` where the kernel has no shaper.
    pub fn slow(&self, rate: &str) -> bool {
        let link = self.link();
        let shaped = run(
            "tc",
            &[
                "qdisc", "add", "dev", &link, "root", "tbf", "rate", rate, "burst", "2kb",
                "latency", "5s",
            ],
        );
        shaped
            .inspect_err(|why| skipped(&format!("no slow link: {why}")))
            .is_ok()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(run("ip", &["netns", "del", &self.name]));
        // The ends outside go with the namespace; not at once, and not if it was never made.
        drop(run("ip", &["link", "del", &self.link()]));
        drop(run("ip", &["link", "del", &format!("jga{}", self.subnet)]));
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}

/// Past the harness, which shows what a passing test prints to nobody.
fn skipped(why: &str) {
    writeln!(std::io::stderr(), "SKIPPED: {why}").unwrap();
}
