//! What is known of the use of grants: what sidecars have reported, beside the grants themselves.

use crate::control::lifecycle::fault::Fault;
use crate::control::lifecycle::plane::Plane;
use crate::control::store::StoreError;
use crate::wire::v1;

impl Plane {
    /// The grants with what is known of their use.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be read.
    pub(crate) async fn with_uses(
        &self,
        mut grants: Vec<v1::Grant>,
    ) -> Result<Vec<v1::Grant>, Fault> {
        let read = self.store().read(move |reader| {
            for grant in &mut grants {
                let Some(known) = reader.grant_use(&grant.id)? else {
                    continue;
                };
                grant.first_use_time = known.first;
                grant.last_use_time = known.last;
                grant.use_count = known.count;
                grant.used_at = known.sidecars;
            }
            Ok::<_, StoreError>(grants)
        });
        Ok(read.await?)
    }
}
