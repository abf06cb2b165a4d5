//! A wall clock of a test's own for one process: stepped and slewed while the process runs. The machine's is not touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// The library that stands in for the clock, and the file that it follows.
#[derive(Debug, Clone)]
pub struct WallClock {
    dir: Arc<tempfile::TempDir>,
    changes: Arc<AtomicI64>,
}

impl WallClock {
    /// Compiles it.
    pub fn build() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/clock/clock.c");
        let mut compile = Command::new("cc");
        compile.args([
            "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o",
        ]);
        let compiled = compile
            .arg(dir.path().join("clock.so"))
            .arg(source)
            .arg("-ldl")
            .output();
        let output = compiled.expect("the C compiler (cc) that the build needs too");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let clock = Self {
            dir: Arc::new(dir),
            changes: Arc::default(),
        };
        clock.write(0, 0);
        clock
    }

    /// What a process needs in its environment to follow it.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let path = |path: PathBuf| path.to_string_lossy().into_owned();
        vec![
            ("LD_PRELOAD", path(self.dir.path().join("clock.so"))),
            ("JITGATE_TEST_CLOCK", path(self.file())),
        ]
    }

    /// Off by this many seconds from now on.
    pub fn step(&self, seconds: i64) {
        self.write(seconds * 1_000_000_000, 0);
    }

    /// Runs too fast by these parts per million from now on, beginning at the right time.
    pub fn slew(&self, ppm: i64) {
        self.write(0, ppm);
    }

    fn write(&self, offset: i64, ppm: i64) {
        use std::os::unix::fs::FileExt;
        let words = [offset, ppm, self.changes.fetch_add(1, Ordering::SeqCst)];
        let bytes: Vec<u8> = words.into_iter().flat_map(i64::to_ne_bytes).collect();
        // In place: the process has it mapped.
        let file = fs::File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.file())
            .unwrap();
        file.write_all_at(&bytes, 0).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("offset")
    }
}
