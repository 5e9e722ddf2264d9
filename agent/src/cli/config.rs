//! `stower config`: what the agent runs with, and what a file would change.

use hyper::Method;
use serde_json::{Value, json};

use super::{
    agent::{self, chain},
    context::{Context, note, print, println, to_data},
    error::CliError,
    table::Table,
};
use crate::{
    args::{AgentArgs, ConfigArgs, ConfigCheckArgs, ConfigCommand, ConfigShowArgs, GlobalArgs},
    client::{ClientError, Content},
    config::{ConfigError, Flags, Sources},
};

pub(super) async fn run(context: &Context, global: &GlobalArgs, args: ConfigArgs) -> Result<(), CliError> {
    match args.command {
        ConfigCommand::Show(args) => show(context, global, args).await,
        ConfigCommand::Check(args) => check(context, &args).await,
        ConfigCommand::Reload => reload(context).await,
    }
}

fn told(error: &ConfigError) -> CliError {
    CliError::Message(chain(error))
}

async fn show(context: &Context, global: &GlobalArgs, args: ConfigShowArgs) -> Result<(), CliError> {
    let shown = if args.offline {
        let agent = AgentArgs { config: args.config, ..AgentArgs::default() };
        let sources = agent::sources(global.clone(), agent).map_err(|error| told(&error))?;
        let config = sources.load().map_err(|error| told(&error))?;
        json!({"kind": "AgentConfig", "file": sources.file, "fields": config.show(&sources), "needsRestart": []})
    } else {
        context.client.get("/v1/config").await?
    };
    if let Some(output) = args.output {
        return print(to_data(&shown, output)?);
    }
    let mut table = Table::new(&["FIELD", "VALUE", "FROM", "CHANGES"], !args.no_headers);
    for field in shown["fields"].as_array().into_iter().flatten() {
        let text = |name: &str| field[name].as_str().unwrap_or_default().to_owned();
        let changes = if field["reload"] == "live" { "live" } else { "with a restart" };
        table.row(vec![text("field"), value(&field["value"]), text("from"), changes.to_owned()]);
    }
    print(table.render_rows())?;
    for change in changes(&shown["needsRestart"]) {
        note(format!("needs a restart: {change}"));
    }
    if shown["lastReload"]["successful"] == false {
        note(format!("the last reload failed: {}", value(&shown["lastReload"]["message"])));
    }
    Ok(())
}

fn value(value: &Value) -> String {
    match value {
        Value::Null => "<none>".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn changes(list: &Value) -> Vec<String> {
    let line = |it: &Value| format!("{}: {} → {}", value(&it["field"]), value(&it["old"]), value(&it["new"]));
    list.as_array().into_iter().flatten().map(line).collect()
}

async fn check(context: &Context, args: &ConfigCheckArgs) -> Result<(), CliError> {
    let flags = Flags { config: Some(args.file.clone()), ..Flags::default() };
    let sources = Sources::new(flags, []).map_err(|error| told(&error))?;
    let file = sources.read().map_err(|error| told(&error))?.unwrap_or_default();
    match sources.with_file(&file) {
        Ok(_) => {}
        Err(ConfigError::Invalid(problems)) => {
            problems.iter().for_each(|problem| note(problem.to_string()));
            return Err(CliError::Told(1));
        }
        Err(error) => return Err(told(&error)),
    }
    let say = |line: String| if args.quiet { Ok(()) } else { println(line) };
    say(format!("{}: valid", args.file.display()))?;
    let text = String::from_utf8_lossy(&file);
    let asked = Content::json(&json!({"text": text}));
    let answer = match context.client.json(Method::POST, "/v1/config/check", Some(asked)).await {
        Ok(answer) => answer,
        Err(error @ ClientError::Status(_)) => return Err(error.into()),
        Err(error) => return say(format!("not compared with an agent: {error}")),
    };
    tell(&answer, "the agent has all of it already", say)
}

async fn reload(context: &Context) -> Result<(), CliError> {
    let answer = context.client.json(Method::POST, "/v1/config/reload", None).await?;
    tell(&answer, "nothing changed", println)
}

fn tell(
    answer: &Value,
    nothing: &str,
    mut say: impl FnMut(String) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let (live, restart) = (changes(&answer["changes"]), changes(&answer["needsRestart"]));
    if live.is_empty() && restart.is_empty() {
        return say(nothing.to_owned());
    }
    live.into_iter().try_for_each(|change| say(format!("live: {change}")))?;
    restart.into_iter().try_for_each(|change| say(format!("needs a restart: {change}")))
}
