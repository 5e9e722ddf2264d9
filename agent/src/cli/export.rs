//! `stower export`: a container's root filesystem as a tar archive.

use super::{archive, context::Context, error::CliError, target};
use crate::args::ExportArgs;

pub(super) async fn run(context: &Context, args: &ExportArgs) -> Result<(), CliError> {
    let target = target::single(context, &args.name)?;
    let output = args.output.as_deref();
    archive::refuse_terminal(output)?;
    archive::receive(context, hyper::Method::GET, &target.sub(&["export"]), None, output).await
}
