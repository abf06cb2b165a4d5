//! What the kernel says of a process: CPU time and resident memory.

use std::time::Duration;

use anyhow::Context;

/// Ticks a second in which Linux tells CPU time to programs, whatever the kernel counts in.
const USER_HZ: u64 = 100;

/// A process at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// CPU time of all its threads so far.
    pub(super) cpu: Duration,
    /// Resident memory in bytes.
    pub(super) resident: u64,
}

pub(super) fn sample(pid: u32) -> anyhow::Result<Sample> {
    let named = || format!("process {pid} cannot be looked at; is it on this machine?");
    // Threads that have ended count in `stat`; those of `schedstat` would be gone.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(named)?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).with_context(named)?;
    let cpu = cpu_of(&stat).with_context(named)?;
    let resident = resident_of(&status).with_context(named)?;
    Ok(Sample { cpu, resident })
}

/// utime and stime, the 14th and 15th field; the 2nd is the program's name, and may hold anything.
fn cpu_of(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let ticks: u64 = fields
        .next()?
        .parse::<u64>()
        .ok()?
        .checked_add(fields.next()?.parse().ok()?)?;
    Some(Duration::from_millis(ticks.checked_mul(1000 / USER_HZ)?))
}

fn resident_of(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim()
        .trim_end_matches("kB")
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_odd_names_do_not_shift_the_fields() {
        let sample = sample(std::process::id()).unwrap();
        assert!(sample.resident > 1 << 20);
        let stat = "7 (a) b (c) S 1 1 1 0 -1 0 0 0 0 0 150 50 0 0 20 0";
        assert_eq!(cpu_of(stat), Some(Duration::from_secs(2)));
        assert_eq!(resident_of("VmRSS:\t    2048 kB\n"), Some(2 << 20));
    }
}
