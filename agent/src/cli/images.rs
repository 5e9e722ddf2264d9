//! `stower images`: the images on this machine.

use serde_json::Value;

use super::{
    age,
    context::{Context, list_of, note, now, print, println, to_json, to_yaml},
    error::CliError,
    row::short_digest,
    table::Table,
};
use crate::args::{ImagesArgs, Output};

pub(super) async fn run(context: &Context, args: &ImagesArgs) -> Result<(), CliError> {
    let mut list = context.client.get("/v1/images").await?;
    let Value::Array(mut images) = list["items"].take() else {
        return Err(CliError::Message("the agent's answer lists no images".to_owned()));
    };
    if let Some(filter) = &args.filter {
        images.retain(|image| image["reference"].as_str().is_some_and(|name| name.contains(filter.as_str())));
    }
    let field = |image: &Value, name: &str| image[name].as_str().unwrap_or_default().to_owned();
    if args.quiet {
        return images.iter().try_for_each(|image| println(field(image, "digest")));
    }
    match args.output {
        Some(Output::Json) => print(to_json(&list_of(images))?),
        Some(Output::Yaml) => print(to_yaml(&list_of(images))?),
        Some(Output::Name) => images.iter().try_for_each(|image| println(field(image, "reference"))),
        None | Some(Output::Wide) => {
            if images.is_empty() {
                note("No images found.");
                return Ok(());
            }
            let full = args.no_trunc || args.output == Some(Output::Wide);
            let mut table = Table::new(&["IMAGE", "DIGEST", "CREATED", "SIZE"], !args.no_headers);
            for image in &images {
                let digest = if full { field(image, "digest") } else { short_digest(&image["digest"]) };
                let created = match age::parse(&image["created"]) {
                    Some(_) => format!("{} ago", age::since(&image["created"], now())),
                    None => "<unknown>".to_owned(),
                };
                table.row(vec![
                    field(image, "reference"),
                    digest,
                    created,
                    age::bytes(image["size"].as_u64().unwrap_or(0)),
                ]);
            }
            print(table.render_rows())
        }
    }
}
