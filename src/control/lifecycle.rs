//! The life of access requests and grants: each change is one transaction of the store with its audit event.

pub(crate) mod approve;
pub(crate) mod break_glass;
pub(crate) mod caller;
pub(crate) mod extend;
pub(crate) mod fault;
pub(crate) mod grants;
pub(crate) mod input;
pub(crate) mod notify;
pub(crate) mod plane;
pub(crate) mod requests;
pub(crate) mod reviews;
pub(crate) mod rows;
pub(crate) mod standing;
pub(crate) mod suspend;
pub(crate) mod sweeper;
pub(crate) mod unused;
pub(crate) mod write_options;
