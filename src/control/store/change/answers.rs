//! Answers to request ids, kept for a while so that a retry gets the first one again.

use prost::Message;

use super::Change;
use crate::control::store::keys::{self, DueKind};
use crate::control::store::reader::Due;
use crate::control::store::{StoreError, Table};
use crate::model::time::Timestamp;
use crate::wire::grant::timestamp_to;
use crate::wire::store;

/// Answers kept for request ids.
const ANSWERS_KEPT: i64 = 65_536;

impl Change<'_> {
    /// Keeps the answer to a request id until `expires`; the oldest goes when there are too many.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn keep_answer(
        &mut self,
        key: &[u8],
        answer: &store::Answered,
        expires: Timestamp,
    ) -> Result<(), StoreError> {
        if self.meta.answered >= ANSWERS_KEPT
            && let Some(oldest) = self.read().oldest_answer()?
        {
            self.forget_answer(&oldest);
        }
        let answer = store::Answered {
            expire_time: Some(timestamp_to(expires)),
            ..answer.clone()
        };
        self.rows
            .put(Table::Answered, key.to_vec(), answer.encode_to_vec());
        self.rows
            .put(Table::Due, keys::due(expires, DueKind::Answer, key), vec![]);
        self.meta.answered += 1;
        Ok(())
    }

    /// Forgets the answer to a request id.
    pub(crate) fn forget_answer(&mut self, due: &Due) {
        self.rows.remove(Table::Answered, due.id.clone());
        self.drop_due(due);
        self.meta.answered = (self.meta.answered - 1).max(0);
    }
}
