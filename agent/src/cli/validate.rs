//! `stower validate`: reads and checks manifests as the agent would, without one; or asks an API server whether it would take them.

use stower_crds::{AdmitContext, ObjectKey};

use super::{
    apply,
    context::{Context, note, println},
    error::{CliError, Failures},
    files,
    target::Target,
};
use crate::{
    args::{DryRun, ValidateArgs},
    client::ClientError,
};

/// Has an API server check the manifests, without changing anything: by an apply that is a dry run.
pub(super) async fn by_server(context: &Context, args: &ValidateArgs) -> Result<(), CliError> {
    let mut failures = Failures::default();
    for document in files::documents(&files::read(&args.filename, args.recursive)?)? {
        let place = |error: CliError| CliError::Message(format!("{}: {error}", document.place()));
        let checked = Target::of(document.object(), context.namespace()).map_err(place);
        let target = match checked {
            Ok(target) => target,
            Err(error) => {
                failures.add(error)?;
                continue;
            }
        };
        // Who manages which field is no matter of validity.
        match apply::send(context, &target, document.object(), DryRun::Server, true).await {
            Ok(_) if args.quiet => {}
            Ok(_) => println(format!("{}: {target} is valid", document.place()))?,
            Err(ClientError::Status(mut status)) => {
                status.message = format!("{}: {}", document.place(), status.message);
                failures.add(ClientError::Status(status).into())?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    failures.end()
}

pub(super) fn run(args: &ValidateArgs) -> Result<(), CliError> {
    let mut seen: Vec<(ObjectKey, String)> = Vec::new();
    let mut wrong = false;
    let mut complain = |text: String| {
        wrong = true;
        note(text);
    };
    for manifest in files::read(&args.filename, args.recursive)? {
        let documents = match files::parse(&manifest) {
            Ok(documents) => documents,
            Err(message) => {
                complain(message);
                continue;
            }
        };
        if documents.is_empty() {
            complain(format!("{}: no objects in it", manifest.name));
        }
        for document in documents {
            match stower_crds::admit(document.object().clone(), &AdmitContext::default()) {
                Err(mut errors) => {
                    document.read.locate_all(&mut errors);
                    for error in errors {
                        // An error begins with its line and column.
                        complain(format!("{}:{error}", document.name));
                    }
                }
                Ok(object) => {
                    let key = object.key();
                    if let Some((_, other)) = seen.iter().find(|(other, _)| *other == key) {
                        complain(format!(
                            "{}: {} {}/{} is declared in {other} already",
                            document.place(),
                            key.kind,
                            key.namespace,
                            key.name
                        ));
                        continue;
                    }
                    if !args.quiet {
                        println(format!(
                            "{}: {}/{} is valid",
                            document.place(),
                            key.kind.singular(),
                            key.name
                        ))?;
                    }
                    seen.push((key, document.place()));
                }
            }
        }
    }
    if wrong { Err(CliError::Told(1)) } else { Ok(()) }
}
