//! The process as the kernel sees it, read from `/proc` on each scrape. What cannot be read is left out.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::telemetry::names;

/// Clock ticks in a second as `/proc` counts them: `USER_HZ`, 100 on every architecture that Rust supports.
const USER_HZ: f64 = 100.0;

/// Reads `/proc/self`.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let stat = Stat::read();
        if let Some(stat) = &stat {
            let cpu = ConstCounter::new(stat.cpu_seconds);
            let to = encoder.encode_descriptor(
                names::PROCESS_CPU,
                "User and system time",
                None,
                cpu.metric_type(),
            )?;
            cpu.encode(to)?;
        }
        let gauges = [
            (
                names::PROCESS_RESIDENT_MEMORY,
                "Resident memory",
                resident_bytes(),
            ),
            (
                names::PROCESS_START_TIME,
                "Start, since the Unix epoch",
                stat.and_then(Stat::started),
            ),
            (names::PROCESS_OPEN_FDS, "Open file descriptors", open_fds()),
        ];
        for (name, help, value) in gauges {
            let Some(value) = value else { continue };
            let gauge = ConstGauge::new(value);
            let to = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(to)?;
        }
        Ok(())
    }
}

struct Stat {
    cpu_seconds: f64,
    /// Since boot.
    start_seconds: f64,
}

impl Stat {
    /// `man 5 proc_pid_stat`: fields are counted after the command, which ends at the last parenthesis.
    fn read() -> Option<Self> {
        let text = fs::read_to_string("/proc/self/stat").ok()?;
        let fields: Vec<f64> = text
            .rsplit_once(')')?
            .1
            .split_ascii_whitespace()
            .map(|n| n.parse().unwrap_or(0.0))
            .collect();
        let field = |number: usize| fields.get(number - 3).copied();
        let (user, system, start) = (field(14)?, field(15)?, field(22)?);
        Some(Self {
            cpu_seconds: (user + system) / USER_HZ,
            start_seconds: start / USER_HZ,
        })
    }

    fn started(self) -> Option<f64> {
        let text = fs::read_to_string("/proc/stat").ok()?;
        let boot: f64 = text
            .lines()
            .find_map(|line| line.strip_prefix("btime "))?
            .trim()
            .parse()
            .ok()?;
        Some(boot + self.start_seconds)
    }
}

fn resident_bytes() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024.0)
}

#[expect(clippy::cast_precision_loss, reason = "no process has 2^53 files open")]
fn open_fds() -> Option<f64> {
    Some(fs::read_dir("/proc/self/fd").ok()?.count() as f64)
}
