//! `stower events`: what happened lately, the latest last.

use serde_json::Value;

use super::{
    age,
    context::{Context, list_of, note, now, print, to_data},
    error::CliError,
    row::text,
    table::{Table, printable},
    target,
    watch::follow,
};
use crate::{args::EventsArgs, client::Url};

pub(super) async fn run(context: &Context, args: &EventsArgs) -> Result<(), CliError> {
    let base = match context.scope() {
        Some(namespace) => Url::new(&["api", "v1", "namespaces", namespace, "events"]),
        None => Url::new(&["api", "v1", "events"]),
    };
    let selector = match &args.for_object {
        None => None,
        Some(word) => {
            let target = target::single(context, word)?;
            Some(object_selector(target.resource.kind, &target.name))
        }
    };
    // A cluster has events of everything.
    let ours = format!("involvedObject.apiVersion={}", stower_crds::API_VERSION);
    let selector = selector.or_else(|| context.client.is_cluster().then_some(ours));
    let url = base.maybe("fieldSelector", selector.as_deref());
    let mut list = context.client.get(url.as_str()).await?;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let mut events = target::items(&mut list);
    events.retain(|event| is_wanted(event, &args.types));
    // An API server lists them by name.
    events.sort_by_key(|event| age::parse(last(event)));
    if let Some(output) = args.output.filter(|_| !args.watch) {
        return print(to_data(&list_of(events), output)?);
    }
    if events.is_empty() && !args.watch {
        note(match context.scope() {
            Some(namespace) => format!("No events found in {namespace} namespace."),
            None => "No events found.".to_owned(),
        });
        return Ok(());
    }
    let namespaced = context.all_namespaces;
    let mut headings = vec!["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"];
    if namespaced {
        headings.insert(0, "NAMESPACE");
    }
    let mut table = Table::new(&headings, !args.no_headers);
    let mut show = |event: &Value| match args.output {
        Some(output) => print(to_data(event, output)?),
        None => {
            table.row(cells(event, namespaced));
            Ok(())
        }
    };
    events.iter().try_for_each(&mut show)?;
    print(table.render_rows())?;
    if !args.watch {
        return Ok(());
    }
    follow(context, &url, version, |event| {
        let news = matches!(event["type"].as_str(), Some("ADDED" | "MODIFIED"));
        let event = &event["object"];
        if !news || event["kind"] != "Event" || !is_wanted(event, &args.types) {
            return Ok(());
        }
        match args.output {
            Some(output) => print(to_data(event, output)?),
            None => {
                table.row(cells(event, namespaced));
                print(table.render_rows())
            }
        }
    })
    .await
}

/// The field selector for the events of one object.
pub(super) fn object_selector(kind: &str, name: &str) -> String {
    format!("involvedObject.kind={kind},involvedObject.name={name}")
}

fn is_wanted(event: &Value, types: &[String]) -> bool {
    types.is_empty()
        || types.iter().any(|t| event["type"].as_str().is_some_and(|is| is.eq_ignore_ascii_case(t)))
}

fn cells(event: &Value, namespaced: bool) -> Vec<String> {
    let object = &event["involvedObject"];
    let mut cells = vec![
        last_seen(event),
        text(&event["type"]),
        text(&event["reason"]),
        format!(
            "{}/{}",
            object["kind"].as_str().unwrap_or_default().to_ascii_lowercase(),
            object["name"].as_str().unwrap_or_default()
        ),
        printable(event["message"].as_str().unwrap_or_default()).into_owned(),
    ];
    if namespaced {
        cells.insert(0, text(&event["metadata"]["namespace"]));
    }
    cells
}

/// How long ago, and how often: `5s (x3 over 2m)`.
pub(super) fn last_seen(event: &Value) -> String {
    let now = now();
    let seen = age::since(last(event), now);
    let first = &event["firstTimestamp"];
    let first = if first.is_null() { &event["eventTime"] } else { first };
    match event["count"].as_u64().or(event["series"]["count"].as_u64()) {
        Some(count) if count > 1 => format!("{seen} (x{count} over {})", age::since(first, now)),
        _ => seen,
    }
}

/// When it was last seen, whichever way its author counts.
fn last(event: &Value) -> &Value {
    let places = [
        &event["series"]["lastObservedTime"],
        &event["lastTimestamp"],
        &event["eventTime"],
        &event["firstTimestamp"],
    ];
    places.into_iter().find(|time| !time.is_null()).unwrap_or(&Value::Null)
}
