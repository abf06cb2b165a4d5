//! Verifying: an export, the store of a directory, or what the server says now; against checkpoints kept elsewhere.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::cli::connect::{ClientArgs, connect};
use crate::cli::error::{CliError, Exit, note};
use crate::cli::render::audit::Verdict;
use crate::cli::values;
use crate::cli::verbs::requests::with_deadline;
use crate::model::audit::{Broken, Chain, Checkpoint, Verified};
use crate::model::canonical::Hash;
use crate::support::hex;
use crate::wire::audit::{checkpoint_from, event_from};
use crate::wire::v1;

use super::line::Line;

/// Longest line that is read.
const LINE_MAX: usize = 4 << 20;

/// Verifies the store of a directory: what the control plane's part of this program does.
pub(crate) type Offline = fn(&Path, Vec<Checkpoint>) -> anyhow::Result<Result<Verified, Broken>>;

/// What to verify, and against what.
#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// An export, or - for standard input; without it and --data-dir the server's own chain
    #[arg(conflicts_with = "data_dir")]
    file: Option<PathBuf>,
    /// The store of this directory, or a copy of it, which no control plane uses
    #[arg(long, env = "JITGATE_AUDIT_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// What `jitgate audit checkpoint` said, as a file or as INDEX:HASH; repeatable
    #[arg(
        long,
        env = "JITGATE_AUDIT_CHECKPOINT",
        value_name = "FILE|INDEX:HASH",
        value_delimiter = '\n'
    )]
    checkpoint: Vec<String>,
    /// Where the export begins (export --from); what lies before is not verified here
    #[arg(long, env = "JITGATE_AUDIT_VERIFY_FROM", value_name = "INDEX", default_value_t = 1, requires = "file",
          value_parser = clap::value_parser!(u64).range(1..))]
    from: u64,
}

pub(super) async fn verify(
    args: VerifyArgs,
    client: ClientArgs,
    offline: Offline,
) -> Result<Exit, CliError> {
    let VerifyArgs {
        file,
        data_dir,
        checkpoint,
        from,
    } = args;
    let mut checkpoints = Vec::new();
    for text in &checkpoint {
        checkpoints.extend(kept(text)?);
    }
    let alone = checkpoints.is_empty();
    let screen = client.output.screen();
    let verdict = match (&file, data_dir) {
        (_, Some(directory)) => offline(&directory, checkpoints)?,
        (Some(_), None) => exported(reading(file.as_ref()), Chain::new(from, checkpoints))?,
        (None, None) => served(client, checkpoints).await?,
    };
    screen.show(&Verdict(&verdict))?;
    if verdict.is_err() {
        return Ok(Exit::Refused);
    }
    if alone {
        note(
            "hint: against a cut tail, or a chain written anew, only a checkpoint kept elsewhere helps: --checkpoint",
        );
    }
    Ok(Exit::Done)
}

/// What was kept: `INDEX:HASH`, or a file of that or of what `audit checkpoint` prints, one or more.
fn kept(text: &str) -> Result<Vec<Checkpoint>, CliError> {
    if let Some(checkpoint) = pair(text) {
        return Ok(vec![checkpoint]);
    }
    let content = values::read_small("--checkpoint", Path::new(text))?;
    let found: Option<Vec<_>> = if content.trim_start().starts_with('{') {
        let values = serde_json::Deserializer::from_str(&content).into_iter::<serde_json::Value>();
        values
            .map(|value| value.ok().as_ref().and_then(object))
            .collect::<Option<_>>()
    } else {
        // What is printed for people holds other words as well, times among them.
        let resembles_one = |word: &&str| {
            word.split_once(':').is_some_and(|(index, hash)| {
                let is_number = index.bytes().all(|byte| byte.is_ascii_digit());
                is_number && hash.len() > "00:00".len() && !hash.contains(':')
            })
        };
        content
            .split_whitespace()
            .filter(resembles_one)
            .map(pair)
            .collect::<Option<_>>()
    };
    // One that is passed over would not be held against the chain.
    let found: Vec<_> = found.ok_or_else(|| {
        CliError::usage(format!("--checkpoint: {text}: holds a damaged checkpoint"))
    })?;
    if found.is_empty() {
        let problem = format!("--checkpoint: {text}: holds no checkpoint");
        return Err(CliError::usage(problem)
            .hint("keep what `jitgate audit checkpoint` prints, or write INDEX:HASH"));
    }
    Ok(found)
}

fn pair(text: &str) -> Option<Checkpoint> {
    let (index, hash) = text.split_once(':')?;
    let hash = Hash::from_slice(&hex::decode(hash)?)?;
    Some(Checkpoint {
        index: index.parse().ok().filter(|index| *index > 0)?,
        hash,
        epoch: String::new(),
    })
}

fn object(value: &serde_json::Value) -> Option<Checkpoint> {
    let text = |name: &str| {
        value
            .get(name)
            .and_then(serde_json::Value::as_str)
            .unwrap_or_default()
    };
    let index = value.get("index")?.as_u64().filter(|index| *index > 0)?;
    Some(Checkpoint {
        index,
        hash: Hash::from_slice(&hex::decode(text("hash"))?)?,
        epoch: text("epoch").to_owned(),
    })
}

type Outcome = Result<Verified, Broken>;

fn exported(file: Option<&PathBuf>, mut chain: Chain) -> Result<Outcome, CliError> {
    let source: Box<dyn Read> = match file {
        Some(path) => Box::new(
            File::open(path)
                .map_err(|error| CliError::new(format!("{}: {error}", path.display())))?,
        ),
        None => Box::new(std::io::stdin()),
    };
    walk(BufReader::new(source), &mut chain)?;
    Ok(chain.finish(None))
}

fn walk(mut source: impl BufRead, chain: &mut Chain) -> Result<(), CliError> {
    let mut expected = chain.from();
    let mut text = Vec::new();
    loop {
        text.clear();
        let limit = u64::try_from(LINE_MAX).unwrap_or(u64::MAX);
        if source.by_ref().take(limit).read_until(b'\n', &mut text)? == 0 {
            return Ok(());
        }
        let line = String::from_utf8_lossy(&text);
        if line.trim().is_empty() {
            continue;
        }
        let goes_on = match Line::parse(&line) {
            Ok(event) => chain.take(&event),
            Err(why) => {
                chain.unreadable(expected, &why);
                false
            }
        };
        if !goes_on {
            return Ok(());
        }
        expected += 1;
    }
}

/// What the server says now. It is held to its own head, too.
async fn served(client: ClientArgs, mut checkpoints: Vec<Checkpoint>) -> Result<Outcome, CliError> {
    let mut connection = connect(client).await?;
    let refusal = connection.refusal();
    let head = connection
        .audit
        .get_audit_checkpoint(with_deadline(v1::GetAuditCheckpointRequest {}))
        .await;
    let head = checkpoint_from(&head.map_err(&refusal)?.into_inner())
        .map_err(|error| CliError::new(error.to_string()))?;
    let (epoch, own) = (head.epoch.clone(), usize::from(head.index > 0));
    checkpoints.extend(Some(head).filter(|head| head.index > 0));
    let mut chain = Chain::new(1, checkpoints);
    chain.of_store(&epoch);
    let ask = v1::ExportAuditEventsRequest { from_index: 1 };
    let mut events = connection
        .audit
        .export_audit_events(ask)
        .await
        .map_err(&refusal)?
        .into_inner();
    let mut expected = 1;
    while let Some(event) = events.message().await.map_err(&refusal)? {
        match event_from(&event) {
            Ok(event) if chain.take(&event) => expected += 1,
            Ok(_) => break,
            Err(error) => {
                chain.unreadable(expected, &error.to_string());
                break;
            }
        }
    }
    Ok(chain.finish(None).map(|verified| Verified {
        checkpoints: verified.checkpoints.saturating_sub(own),
        ..verified
    }))
}

/// A file that was named, or standard input.
fn reading(file: Option<&PathBuf>) -> Option<&PathBuf> {
    file.filter(|file| file.as_os_str() != "-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::audit::Flaw;

    fn export(length: u64) -> Vec<String> {
        let mut before = bytes::Bytes::new();
        (1..=length)
            .map(|index| {
                let mut event = v1::AuditEvent {
                    index: i64::try_from(index).unwrap(),
                    time: Some(prost_types::Timestamp {
                        seconds: 1_700_000_000,
                        nanos: 5_000,
                    }),
                    r#type: "grant.issued".into(),
                    prev_hash: before.clone(),
                    ..v1::AuditEvent::default()
                };
                event.hash = event_from(&event)
                    .unwrap()
                    .expected_hash()
                    .as_bytes()
                    .to_vec()
                    .into();
                before = event.hash.clone();
                Line::of(&event).text()
            })
            .collect()
    }

    fn verdict(lines: &[String], checkpoints: Vec<Checkpoint>) -> Outcome {
        let mut chain = Chain::new(1, checkpoints);
        walk(lines.join("\n").as_bytes(), &mut chain).unwrap();
        chain.finish(None)
    }

    fn flaw(lines: &[String], checkpoints: Vec<Checkpoint>) -> (u64, Flaw) {
        let broken = verdict(lines, checkpoints).unwrap_err();
        (broken.index, broken.flaw)
    }

    fn hash_of(line: &str) -> String {
        serde_json::from_str::<serde_json::Value>(line).unwrap()["hash"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    #[test]
    fn five_tamperings_of_an_export_are_found_and_told_apart() {
        let whole = export(6);
        let kept = || kept(&format!("6:{}", hash_of(&whole[5]))).unwrap();
        assert_eq!(verdict(&whole, kept()).unwrap().checkpoints, 1);
        let mut edited = whole.clone();
        edited[2] = edited[2].replace("grant.issued", "grant.expired");
        assert_eq!(flaw(&edited, vec![]), (3, Flaw::Altered));
        let mut inserted = whole.clone();
        inserted.insert(2, whole[1].clone());
        assert_eq!(flaw(&inserted, vec![]), (2, Flaw::Inserted));
        let mut deleted = whole.clone();
        deleted.remove(3);
        assert_eq!(flaw(&deleted, vec![]), (4, Flaw::Missing));
        let mut moved = whole.clone();
        moved.swap(1, 4);
        assert_eq!(flaw(&moved, vec![]), (2, Flaw::OutOfOrder));
        assert_eq!(flaw(&whole[..4], kept()), (6, Flaw::CutOff(4)));
        assert!(
            verdict(&whole[..4], vec![]).is_ok(),
            "a cut tail alone cannot be told"
        );
    }

    #[test]
    fn a_line_that_is_none_is_named_by_its_index() {
        let mut lines = export(3);
        lines[1] = "{}".into();
        let (index, flaw) = flaw(&lines, vec![]);
        assert!(
            index == 2 && matches!(flaw, Flaw::Unreadable(_)),
            "{index} {flaw:?}"
        );
    }

    #[test]
    fn a_checkpoint_is_read_from_what_was_printed_in_any_form() {
        let directory = tempfile::tempdir().unwrap();
        let hash = "ab".repeat(32);
        let path = directory.path().join("kept");
        let json = format!("{{\"index\": 7, \"hash\": \"{hash}\", \"epoch\": \"E\"}}");
        for (content, epochs) in [
            (format!("{json}\n{json}\n"), vec!["E", "E"]),
            (
                format!("Index:  7\nHash:   {hash}\nKeep:   7:{hash}\n"),
                vec![""],
            ),
        ] {
            std::fs::write(&path, content).unwrap();
            let found = kept(path.to_str().unwrap()).unwrap();
            assert_eq!(
                found.iter().map(|kept| &*kept.epoch).collect::<Vec<_>>(),
                epochs
            );
            assert!(
                found
                    .iter()
                    .all(|kept| kept.index == 7 && kept.hash.to_string() == hash)
            );
        }
        for damaged in [
            format!("{json}\n{{\"index\": 7, \"ha"),
            format!("{json}\n{{\"index\": 7}}\n{json}"),
            format!("7:{hash}\n8:{}\n", &hash[1..]),
        ] {
            std::fs::write(&path, &damaged).unwrap();
            assert!(kept(path.to_str().unwrap()).is_err(), "{damaged}");
        }
        std::fs::write(&path, format!("at 12:30:00 12:30 7:{hash}")).unwrap();
        assert_eq!(kept(path.to_str().unwrap()).unwrap().len(), 1);
        std::fs::write(&path, "nothing").unwrap();
        assert!(kept(path.to_str().unwrap()).is_err() && kept("7:ab").is_err());
    }
}
