//! `stower crds`: the custom resource definitions, for `kubectl apply -f -`.

use super::{context::print, error::CliError};

pub(super) fn run() -> Result<(), CliError> {
    print(stower_crds::crd_yaml())
}
