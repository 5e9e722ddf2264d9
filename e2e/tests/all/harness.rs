//! The ground the other tests stand on: images and a registry that really serves them.

use anyhow::{Context, Result, ensure};
use stower_e2e::{Catalog, catalog, http, registry};

#[test]
fn the_registry_serves_every_image_by_digest() -> Result<()> {
    let catalog = Catalog::get()?;
    for image in [catalog::busybox, catalog::redis, catalog::nginx, catalog::postgres, catalog::payload] {
        let reference = catalog.reference(image)?;
        let image = image()?;
        let (host, rest) = reference.split_once('/').context("a reference without a registry")?;
        let (name, tag) = rest.split_once(':').context("a reference without a tag")?;
        let accept = [(
            "Accept",
            "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json",
        )];
        let answer = http::tcp(host, "GET", &format!("/v2/{name}/manifests/{tag}"), &accept, &[])?;
        ensure!(answer.status == 200, "{reference}: {}", answer.text());
        ensure!(
            answer.header("docker-content-digest") == Some(image.digest.as_str()),
            "{reference} has another digest"
        );
        for part in image.parts()? {
            let digest = part["digest"].as_str().context("no digest")?;
            let blob = http::tcp(host, "HEAD", &format!("/v2/{name}/blobs/{digest}"), &[], &[])?;
            ensure!(
                blob.header("content-length") == Some(&part["size"].to_string()),
                "{reference} lacks {digest}"
            );
        }
    }
    Ok(())
}

#[test]
fn the_clients_run_on_this_host() -> Result<()> {
    let catalog = Catalog::get()?;
    let port = registry::free_port()?;
    let said = [
        catalog.redis_cli(port, &["ping"]),
        catalog.psql(port, "select 1"),
        catalog.curl(&format!("http://127.0.0.1:{port}/")),
    ];
    for result in said {
        let error = result.err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(
            error.to_lowercase().contains("connect"),
            "nothing listens on {port}, and the client said: {error}"
        );
    }
    Ok(())
}
