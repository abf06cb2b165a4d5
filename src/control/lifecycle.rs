//! The life of access requests and grants: each change is one transaction of the store with its audit event.

pub mod approve;
pub mod break_glass;
pub mod caller;
pub mod extend;
pub mod fault;
pub mod grants;
pub mod notify;
pub mod plane;
pub mod requests;
pub mod reviews;
pub mod standing;
pub mod suspend;
pub mod sweeper;
pub mod unused;
pub mod write_options;
