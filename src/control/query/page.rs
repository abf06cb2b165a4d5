//! Paging: newest first, by create revision, so that what comes in between two pages neither repeats nor hides a row.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;

use crate::control::lifecycle::fault::Fault;
use crate::control::store::{Reader, StoreError, Table};
use crate::model::access::{AccessRequest, Issued};
use crate::model::canonical::Canonical;
use crate::model::grant::Revision;
use crate::model::time::Timestamp;
use crate::wire::access::{issued_to, request_to};

const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1000;
/// Rows looked at for one page; a page may come out shorter than asked for and still have a successor.
const LOOK_MAX: usize = 10_000;
/// Bytes after which a page ends early: a client takes 4 MiB by default, and a row has at most some 600 KiB.
const BYTES_MAX: usize = 3 << 20;
const BATCH: usize = 256;
const TOKEN_VERSION: u8 = 1;

/// What can be listed.
pub(crate) trait Row {
    /// About how many bytes it takes in an answer.
    fn bytes(&self) -> usize;
}

impl Row for AccessRequest {
    fn bytes(&self) -> usize {
        request_to(self).encoded_len()
    }
}

impl Row for Issued {
    fn bytes(&self) -> usize {
        issued_to(self, Timestamp::default()).encoded_len()
    }
}

/// Which page is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Page {
    size: usize,
    below: Revision,
    filter: [u8; 8],
}

impl Page {
    /// Parses a page size and token; `filter` is everything else that was asked for, and a token belongs to it.
    ///
    /// # Errors
    /// INVALID_ARGUMENT names the field.
    pub(crate) fn parse(size: i32, token: &str, filter: &[&str]) -> Result<Self, Fault> {
        let size = match usize::try_from(size) {
            Ok(0) => PAGE_DEFAULT,
            Ok(size) if size <= PAGE_MAX => size,
            Ok(_) | Err(_) => {
                return Err(Fault::invalid(
                    "page_size",
                    "must be 1 to 1000, or 0 for 100",
                ));
            }
        };
        let filter = fingerprint(filter);
        let below = if token.is_empty() {
            Revision(u64::MAX)
        } else {
            decode(token, filter)?
        };
        Ok(Self {
            size,
            below,
            filter,
        })
    }

    /// How many rows are wanted, for whoever reads them by another number than a revision.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Only rows below this number.
    pub(crate) fn below(&self) -> u64 {
        self.below.0
    }

    /// The token of the page that lists what lies below `last`.
    pub(crate) fn below_next(&self, last: u64) -> String {
        self.after(Revision(last))
    }

    /// The token of the page after a row.
    fn after(&self, last: Revision) -> String {
        let mut bytes = vec![TOKEN_VERSION];
        bytes.extend(self.filter);
        bytes.extend(last.0.to_be_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads the page: `row` turns an id into what is listed, or passes it over. Says the next page's token, if any.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn read<T: Row>(
        &self,
        reader: &Reader<'_>,
        table: Table,
        parties: &[&str],
        mut row: impl FnMut(&Reader<'_>, &str) -> Result<Option<T>, StoreError>,
    ) -> Result<(Vec<T>, String), StoreError> {
        let (mut rows, mut bytes, mut below, mut looked) = (Vec::new(), 0, self.below, 0);
        loop {
            let batch = reader.newest(table, parties, below, BATCH)?;
            let last = batch.len() < BATCH;
            for (revision, id) in batch {
                if looked >= LOOK_MAX || bytes >= BYTES_MAX || rows.len() == self.size {
                    // There is at least this one row more.
                    return Ok((rows, self.after(below)));
                }
                looked += 1;
                if let Some(row) = row(reader, &id)? {
                    bytes += row.bytes();
                    rows.push(row);
                }
                below = revision;
            }
            if last {
                return Ok((rows, String::new()));
            }
        }
    }
}

fn decode(token: &str, filter: [u8; 8]) -> Result<Revision, Fault> {
    let refuse = || {
        Fault::invalid(
            "page_token",
            "is not a next_page_token of this server for the same filters",
        )
    };
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| refuse())?;
    let (version, rest) = bytes.split_first().ok_or_else(refuse)?;
    let (of, revision) = rest.split_first_chunk::<8>().ok_or_else(refuse)?;
    if *version != TOKEN_VERSION || *of != filter {
        return Err(refuse());
    }
    Ok(Revision(u64::from_be_bytes(
        revision.try_into().map_err(|_| refuse())?,
    )))
}

fn fingerprint(filter: &[&str]) -> [u8; 8] {
    let mut canonical = Canonical::new("jitgate.page.v1");
    canonical.list(filter.iter());
    canonical
        .finish()
        .as_bytes()
        .first_chunk()
        .copied()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_belongs_to_its_filters() {
        let page = Page::parse(2, "", &["state"]).unwrap();
        let token = page.after(Revision(7));
        assert_eq!(
            Page::parse(2, &token, &["state"]).unwrap().below,
            Revision(7)
        );
        assert_eq!(
            Page::parse(2, &token, &["other"])
                .unwrap_err()
                .field
                .as_deref(),
            Some("page_token")
        );
    }

    #[test]
    fn bad_sizes_and_tokens_are_named() {
        assert!(Page::parse(-1, "", &[]).is_err() && Page::parse(1001, "", &[]).is_err());
        for token in ["%", "AA", "AQ", &URL_SAFE_NO_PAD.encode([1; 200])] {
            assert!(Page::parse(0, token, &[]).is_err(), "{token}");
        }
        assert_eq!(Page::parse(0, "", &[]).unwrap().size, PAGE_DEFAULT);
    }
}
