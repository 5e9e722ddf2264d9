//! `stower get`: objects as a table, JSON, YAML or names; once, or with every change.

use serde_json::Value;

use super::{
    context::{Context, list_of, note, now, print, to_json, to_yaml},
    error::{CliError, Failures},
    row::{self, Columns},
    table::Table,
    target::{Resource, Target, Wanted, items, refuse_all_namespaces, wanted},
    watch::follow,
};
use crate::{
    args::{GetArgs, Output},
    client::Url,
};

pub(super) async fn run(context: &Context, args: &GetArgs) -> Result<(), CliError> {
    let wanted = wanted(&args.targets)?;
    if args.watch || args.watch_only {
        return watch(context, args, &wanted).await;
    }
    let mut printer = Printer::new(context, args);
    match wanted {
        Wanted::Kinds(kinds) => {
            let mut objects = Vec::new();
            printer.columns.kinds = kinds.len() > 1;
            for resource in kinds {
                let mut list = context.client.get(url(context, args, resource, None).as_str()).await?;
                objects.extend(items(&mut list));
            }
            if objects.is_empty() && printer.is_table() {
                note(none_found(context));
                return Ok(());
            }
            printer.several(&objects)
        }
        Wanted::Names(names) => {
            refuse_all_namespaces(context)?;
            refuse_selectors(args)?;
            let mut failures = Failures::default();
            let alone = names.len() == 1;
            printer.columns.kinds = names.iter().any(|(resource, _)| *resource != names[0].0);
            let mut objects = Vec::new();
            for (resource, name) in names {
                let target = Target { resource, namespace: context.namespace().to_owned(), name };
                match context.client.get(target.url().as_str()).await {
                    Ok(object) => objects.push(object),
                    Err(error) if args.ignore_not_found && error.is_not_found() => {}
                    Err(error) => failures.add(error.into())?,
                }
            }
            match objects.pop() {
                None => {}
                Some(object) if alone => printer.one(&object)?,
                Some(object) => {
                    objects.push(object);
                    printer.several(&objects)?;
                }
            }
            failures.end()
        }
    }
}

fn refuse_selectors(args: &GetArgs) -> Result<(), CliError> {
    if args.selector.is_some() || args.field_selector.is_some() {
        return Err(CliError::Message("a name and a selector cannot be given together".to_owned()));
    }
    Ok(())
}

/// The list to ask for; a single name becomes a field selector, for watches.
fn url(context: &Context, args: &GetArgs, resource: &Resource, name: Option<&str>) -> Url {
    let by_name = name.map(|name| format!("metadata.name={name}"));
    resource
        .list(context.scope())
        .maybe("labelSelector", args.selector.as_deref())
        .maybe("fieldSelector", by_name.as_deref().or(args.field_selector.as_deref()))
}

fn none_found(context: &Context) -> String {
    match context.scope() {
        Some(namespace) => format!("No resources found in {namespace} namespace."),
        None => "No resources found".to_owned(),
    }
}

async fn watch(context: &Context, args: &GetArgs, wanted: &Wanted) -> Result<(), CliError> {
    let (resource, name) = match wanted {
        Wanted::Kinds(kinds) if kinds.len() == 1 => (kinds[0], None),
        Wanted::Kinds(_) => {
            return Err(CliError::Message(
                "you may only specify a single resource type when watching".to_owned(),
            ));
        }
        Wanted::Names(names) => match names.as_slice() {
            [(resource, name)] => {
                refuse_all_namespaces(context)?;
                refuse_selectors(args)?;
                (*resource, Some(name.as_str()))
            }
            _ => {
                return Err(CliError::Message(
                    "you may only specify a single resource when watching".to_owned(),
                ));
            }
        },
    };
    let mut printer = Printer::new(context, args);
    let mut quiet = args.watch_only;
    // A watch that fell too far behind begins again with a list.
    loop {
        let url = url(context, args, resource, name);
        let mut list = context.client.get(url.as_str()).await?;
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        let objects = items(&mut list);
        match name {
            Some(name) if objects.is_empty() && !quiet && !args.ignore_not_found => {
                let target =
                    Target { resource, namespace: context.namespace().to_owned(), name: name.to_owned() };
                // The agent words the refusal.
                context.client.get(target.url().as_str()).await?;
            }
            _ => {}
        }
        if !quiet {
            for object in objects {
                printer.add(&object)?;
            }
            printer.flush()?;
        }
        quiet = false;
        let print = |event: &mut Value| -> Result<(), CliError> {
            if matches!(event["type"].as_str(), Some("ADDED" | "MODIFIED" | "DELETED")) {
                printer.add(&event["object"].take())?;
                printer.flush()?;
            }
            Ok(())
        };
        match follow(context, &url, version, print).await {
            Err(CliError::Client(error)) if error.is_gone() => {}
            other => return other,
        }
    }
}

/// Prints objects in the format asked for: a table for each kind.
struct Printer<'a> {
    args: &'a GetArgs,
    columns: Columns,
    tables: Vec<(&'static Resource, Table)>,
}

impl<'a> Printer<'a> {
    fn new(context: &Context, args: &'a GetArgs) -> Self {
        let columns = Columns {
            namespaced: context.all_namespaces,
            wide: args.output == Some(Output::Wide),
            labels: args.show_labels,
            kinds: false,
        };
        Self { args, columns, tables: Vec::new() }
    }

    fn row(&mut self, object: &Value) {
        let resource = Resource::named(object["kind"].as_str().unwrap_or_default());
        let cells = row::cells(resource, object, self.columns, now());
        if let Some((_, table)) = self.tables.iter_mut().find(|(known, _)| *known == resource) {
            return table.row(cells);
        }
        let mut table = Table::new(&row::headings(resource, self.columns), !self.args.no_headers);
        table.row(cells);
        self.tables.push((resource, table));
    }

    fn is_table(&self) -> bool {
        matches!(self.args.output, None | Some(Output::Wide))
    }

    fn one(&mut self, object: &Value) -> Result<(), CliError> {
        self.add(object)?;
        self.flush()
    }

    fn several(&mut self, objects: &[Value]) -> Result<(), CliError> {
        match self.args.output {
            Some(Output::Json) => print(to_json(&self.list(objects))?),
            Some(Output::Yaml) => print(to_yaml(&self.list(objects))?),
            _ => {
                for object in objects {
                    self.add(object)?;
                }
                self.flush()
            }
        }
    }

    fn list(&self, objects: &[Value]) -> Value {
        list_of(objects.iter().map(|object| self.shown(object)).collect())
    }

    /// The object without who manages which field, as kubectl leaves it out.
    fn shown(&self, object: &Value) -> Value {
        let mut object = object.clone();
        if let Some(metadata) = object["metadata"].as_object_mut().filter(|_| !self.args.show_managed_fields)
        {
            metadata.remove("managedFields");
        }
        object
    }

    /// Takes one object: a row waits for [`Self::flush`], anything else is printed at once.
    fn add(&mut self, object: &Value) -> Result<(), CliError> {
        match self.args.output {
            Some(Output::Json) => print(to_json(&self.shown(object))?),
            Some(Output::Yaml) if self.args.watch || self.args.watch_only => {
                print(format!("---\n{}", to_yaml(&self.shown(object))?))
            }
            Some(Output::Yaml) => print(to_yaml(&self.shown(object))?),
            Some(Output::Name) => print(format!("{}\n", Target::of(object, "")?)),
            None | Some(Output::Wide) => {
                self.row(object);
                Ok(())
            }
        }
    }

    fn flush(&mut self) -> Result<(), CliError> {
        let tables: Vec<String> = self.tables.iter_mut().map(|(_, table)| table.render_rows()).collect();
        print(tables.join("\n"))
    }
}
