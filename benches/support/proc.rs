//! What the kernel says of a process: CPU time in nanoseconds, resident memory; and the one core that all share.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// CPU time of every thread of a process, as the scheduler counts it.
pub(crate) fn cpu_nanos(pid: u32) -> anyhow::Result<u64> {
    let mut sum = 0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))
        .with_context(|| format!("process {pid} is gone"))?
    {
        // A thread may end between the listing and the reading.
        let Ok(text) = std::fs::read_to_string(thread?.path().join("schedstat")) else {
            continue;
        };
        sum += text
            .split_ascii_whitespace()
            .next()
            .context("an empty schedstat")?
            .parse::<u64>()?;
    }
    Ok(sum)
}

/// Resident memory in bytes.
pub(crate) fn resident(pid: u32) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kilobytes * 1024)
}

/// Keeps this thread, and every thread and process it starts, on the first core that it may use. Only this takes
/// wake-ups across cores out of the figures.
pub(crate) fn keep_to_one_core() -> anyhow::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let allowed = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .context("no core is allowed")?;
    let first: u16 = allowed
        .trim()
        .split(['-', ','])
        .next()
        .context("no core is allowed")?
        .parse()?;
    let taskset = Command::new("taskset")
        .args([
            "--pid",
            "--cpu-list",
            &first.to_string(),
            &std::process::id().to_string(),
        ])
        .stdout(Stdio::null())
        .status()
        .context("taskset (of util-linux) cannot be run")?;
    if !taskset.success() {
        bail!("taskset ended with {taskset}");
    }
    Ok(())
}
