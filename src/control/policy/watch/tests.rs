//! Claims about following a policy directory: a good set comes into force, a bad one changes nothing.

use super::*;
use crate::control::policy::tests::{GOOD, directory};
use std::fs;
use tokio::sync::mpsc;

struct Running {
    dir: tempfile::TempDir,
    counts: ReloadCounts,
    sets: mpsc::UnboundedReceiver<PolicySet>,
    stop: CancellationToken,
    task: tokio::task::JoinSet<Outcome>,
}

fn start() -> Running {
    let dir = directory(&[("a.yaml", GOOD)]);
    let reloader = Reloader::new(dir.path(), &PolicySet::load(dir.path()).unwrap());
    let (counts, stop) = (reloader.counts(), CancellationToken::new());
    let (send, sets) = mpsc::unbounded_channel();
    let mut task = tokio::task::JoinSet::new();
    task.spawn(reloader.run(stop.clone(), move |set| drop(send.send(set))));
    Running {
        dir,
        counts,
        sets,
        stop,
        task,
    }
}

impl Running {
    fn write(&self, text: &str) {
        // As an editor or a checkout does: whole, by rename.
        let file = self.dir.path().join("a.yaml");
        fs::write(file.with_extension("new"), text).unwrap();
        fs::rename(file.with_extension("new"), file).unwrap();
    }

    async fn refused(&self, count: u64) {
        while self.counts.refused() < count {
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn end(mut self) {
        self.stop.cancel();
        assert!(self.task.join_next().await.unwrap().unwrap().is_ok());
    }
}

// Time is paused: it jumps ahead to the next timer whenever nothing else is to be done.
#[tokio::test(start_paused = true)]
async fn a_changed_set_is_put_in_force() {
    let mut running = start();
    running.write(&GOOD.replace("1h", "2h"));
    let set = running.sets.recv().await.unwrap();
    assert_eq!(
        set.policy("pay").unwrap().duration.max,
        Duration::from_secs(7200)
    );
    assert_eq!((running.counts.applied(), running.counts.refused()), (1, 0));
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_bad_set_is_counted_once_and_changes_nothing() {
    let mut running = start();
    running.write("x: [");
    running.refused(1).await;
    sleep(4 * POLL).await;
    assert_eq!((running.counts.applied(), running.counts.refused()), (0, 1));
    assert!(running.sets.try_recv().is_err());
    running.write(&GOOD.replace("1h", "3h"));
    assert_eq!(
        running
            .sets
            .recv()
            .await
            .unwrap()
            .policy("pay")
            .unwrap()
            .duration
            .max
            .as_secs(),
        10_800
    );
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_vanishes_keeps_the_set_and_may_come_back() {
    let mut running = start();
    let aside = running.dir.path().with_extension("aside");
    fs::rename(running.dir.path(), &aside).unwrap();
    running.refused(1).await;
    assert!(running.sets.try_recv().is_err());
    fs::rename(&aside, running.dir.path()).unwrap();
    running.write(&GOOD.replace("1h", "4h"));
    // It may be seen between the two steps, with its old content.
    loop {
        let set = running.sets.recv().await.unwrap();
        if set.policy("pay").unwrap().duration.max.as_secs() == 14_400 {
            break;
        }
    }
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_stays_the_same_is_left_alone() {
    let mut running = start();
    running.write(GOOD);
    sleep(4 * POLL).await;
    assert!(running.sets.try_recv().is_err());
    assert_eq!((running.counts.applied(), running.counts.refused()), (0, 0));
    running.end().await;
}

#[tokio::test]
async fn a_change_is_heard_without_waiting_for_the_poll() {
    let dir = directory(&[("a.yaml", GOOD)]);
    let changed = Arc::new(Notify::new());
    let _watcher = watch(dir.path(), &changed).unwrap();
    fs::write(dir.path().join("b.yaml"), "").unwrap();
    tokio::time::timeout(Duration::from_secs(10), changed.notified())
        .await
        .unwrap();
}
