//! `update`: new limits for a running container.

use oci_spec::runtime::LinuxResources;

use super::error::{OciError, Result};
use super::state::{self, Container, Status};
use crate::cgroup::Limits;

/// Applies resources; what is not given stays.
pub(super) fn update(container: &Container, mut resources: LinuxResources) -> Result<()> {
    container.lock()?;
    let state = container.state()?;
    if container.status(&state)? == Status::Stopped {
        return Err(OciError::Usage(format!("container not running: `{}` is stopped", state.id)));
    }
    // Which devices may be used is decided at the creation.
    resources.set_devices(None);
    let limits = Limits::from_oci_whole(&resources)?;
    Ok(state::groups(&state)?.update("c", &limits)?)
}
