//! `stower validate`: reads and checks manifests as the agent would, without one.

use stower_crds::{AdmitContext, ObjectKey};

use super::{
    context::{note, println},
    error::CliError,
    files,
};
use crate::args::ValidateArgs;

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
