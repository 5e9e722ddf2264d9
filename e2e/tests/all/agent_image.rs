//! `cargo xtask image`: the agent's image.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use stower_e2e::{Image, catalog, process, requires};

/// All files below a folder, by their paths in it.
fn files(folder: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder)?.to_owned(), fs::read(&path)?);
            }
        }
    }
    Ok(found)
}

#[test]
fn one_program_makes_one_image_whoever_builds_it_and_when() -> Result<()> {
    requires::all()?;
    let folder =
        tempfile::Builder::new().permissions(Permissions::from_mode(0o777)).tempdir_in("/var/tmp")?;
    fs::set_permissions(folder.path(), Permissions::from_mode(0o777))?;
    // Where nobody finds them, too. What the program does is of no matter to the image.
    let xtask = folder.path().join("xtask");
    fs::copy(catalog::own_program("xtask")?, &xtask)?;
    let build = |program: &str, to: &str, shell: &str| -> Result<()> {
        let mut command = Command::new("sh");
        command
            .args(["-c", shell, "sh"])
            .arg(&xtask)
            .args(["image", "--binary"])
            .arg(folder.path().join(program));
        command
            .args(["--reference", "example.org/stower:1"])
            .arg(folder.path().join(to))
            .env("TMPDIR", folder.path());
        process::run_command(command.current_dir("/")).map(drop)
    };
    fs::copy(catalog::own_program("payload")?, folder.path().join("one"))?;
    build("one", "a", r#"umask 022; exec "$@""#)?;
    // The same program at another place, with another mode, owner and time.
    process::run(
        "install",
        ["-o", "65534", "-m", "0700"]
            .map(AsRef::as_ref)
            .into_iter()
            .chain([folder.path().join("one").as_os_str(), folder.path().join("two").as_os_str()]),
    )?;
    build("two", "b", r#"umask 077; exec setpriv --reuid 65534 --regid 65534 --clear-groups -- "$@""#)?;
    let (a, b) = (files(&folder.path().join("a"))?, files(&folder.path().join("b"))?);
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    ensure!(names(&a) == names(&b), "{:?} and {:?}", names(&a), names(&b));
    for (path, bytes) in &a {
        ensure!(b[path] == *bytes, "{} differs", path.display());
    }
    ensure!(a.contains_key(Path::new("stower.tar")), "{:?}", names(&a));

    let mut other = fs::read(folder.path().join("one"))?;
    other.push(0);
    fs::write(folder.path().join("other"), other)?;
    build("other", "c", r#"exec "$@""#)?;
    let digest = |name: &str| -> Result<String> {
        Ok(Image::open("stower", &folder.path().join(name).join("stower"))?.digest)
    };
    ensure!(
        digest("a")? == digest("b")? && digest("a")? != digest("c")?,
        "another program is the same image"
    );

    // Everything in it is root's.
    let image = Image::open("stower", &folder.path().join("a/stower"))?;
    let manifest = image.manifest()?;
    let layer = manifest["layers"][0]["digest"].as_str().context("no layer")?;
    let list =
        process::run("tar", ["-tvzf".as_ref(), image.blob(layer)?.as_os_str(), "--numeric-owner".as_ref()])?;
    let lines: Vec<&str> = list.lines().collect();
    ensure!(
        lines.len() == 2
            && lines.iter().all(|line| line.contains("rwxr-xr-x 0/0 "))
            && lines[1].ends_with("./stower"),
        "{list}"
    );
    Ok(())
}
