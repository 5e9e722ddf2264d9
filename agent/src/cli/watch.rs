//! Following a list from one of its versions on.

use std::time::Duration;

use serde_json::Value;

use super::{context::Context, error::CliError};
use crate::client::Url;

/// An API server ends each watch after a while, and some proxies sooner. A new one begins no oftener than this.
const PAUSE: Duration = Duration::from_secs(1);

/// Hands each change after `version` to `each`. It ends with an error only: of an agent when its watch ends, since then it stops; of
/// an API server when the version is too old to go on from.
pub(super) async fn follow(
    context: &Context,
    list: &Url,
    mut version: String,
    mut each: impl FnMut(&mut Value) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let cluster = context.client.is_cluster();
    loop {
        let url = list.clone().query("watch", "true").query("resourceVersion", &version);
        // Bookmarks keep the version young while nothing happens.
        let url = if cluster { url.query("allowWatchBookmarks", "true") } else { url };
        let mut stream = context.client.stream(hyper::Method::GET, url.as_str(), None).await?;
        while let Some(mut event) = stream.event().await? {
            if let Some(now) = event["object"]["metadata"]["resourceVersion"].as_str() {
                version = now.to_owned();
            }
            each(&mut event)?;
        }
        if !cluster {
            return Err(context.client.broken("the agent ended the watch").into());
        }
        tokio::time::sleep(PAUSE).await;
    }
}
