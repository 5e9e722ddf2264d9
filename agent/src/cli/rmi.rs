//! `stower rmi`: removes images from this machine.

use super::{
    context::{Context, println},
    error::{CliError, Failures},
};
use crate::{args::RmiArgs, client::Url};

pub(super) async fn run(context: &Context, args: &RmiArgs) -> Result<(), CliError> {
    let mut failures = Failures::default();
    for reference in &args.references {
        let url = Url::new(&["v1", "images"]).query("reference", reference);
        match context.client.json(hyper::Method::DELETE, url.as_str(), None).await {
            Ok(answer) => println(answer["message"].as_str().unwrap_or("removed"))?,
            Err(error) => failures.add(error.into())?,
        }
    }
    failures.end()
}
