//! `stower start`: see [`super::operate`].

use super::{
    context::Context,
    error::CliError,
    operate::{self, Verb},
};
use crate::args::StartArgs;

pub(super) async fn run(context: &Context, args: &StartArgs) -> Result<(), CliError> {
    operate::run(context, Verb::Start, &args.selection, None, &args.wait).await
}
