//! `stower restart`: see [`super::operate`].

use super::{
    context::Context,
    error::CliError,
    operate::{self, Verb},
};
use crate::args::StopArgs;

pub(super) async fn run(context: &Context, args: &StopArgs) -> Result<(), CliError> {
    operate::run(context, Verb::Restart, &args.selection, args.grace_period, &args.wait).await
}
