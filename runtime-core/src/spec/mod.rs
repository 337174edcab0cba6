//! Loading and checking `config.json`.

use std::path::Path;

use oci_spec::runtime::Spec;

use crate::Result;

/// Reads `config.json` of a bundle. Leniently: a capability that is not known is dropped with a warning, as runc does.
pub fn load(_bundle: &Path) -> Result<Spec> {
    todo!()
}
