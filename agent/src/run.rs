//! Putting the agent together, and taking it down again. Containers go on either way.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, bail};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::{
    effects::{Effects, files},
    engine::{Engine, Inputs},
    exec::Execs,
    journal::Syncer,
    kube::Cluster,
    node::{Loop, Node},
    reload::{Reloader, Start},
    source::dir,
};

/// Runs the agent until it is told to end.
///
/// # Errors
/// When it cannot begin: each names what to do.
pub async fn run(start: Start) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!(
            "the agent needs root, to make namespaces, mounts and cgroups: run it as root, for example with sudo"
        );
    }
    let config = start.config.clone();
    let fixed = &config.fixed;
    let paths = fixed.paths.clone();
    let lock = paths.claim()?;
    let instance = paths.instance()?;
    // Neither waits for the other: programs are compared with those on disk, and the counter is synced.
    let bin = paths.data.join("bin");
    let programs = std::thread::spawn({
        let bin = bin.clone();
        move || files::install_programs(&bin)
    });
    let version = std::thread::spawn({
        let data = paths.data.clone();
        move || first_version(&data)
    });
    let metrics = crate::metrics::Metrics::new();
    metrics.start_time.set(jiff::Timestamp::now().as_second() as f64);

    let mut options = stower_storage::StorageOptions::new(&paths.data);
    options.driver = fixed.storage_driver.clone();
    options.driver_options = fixed.storage_opts.clone();
    options.registry.insecure = config.insecure_registries.clone();
    options.unpack_limits = config.unpack_limits.clone();
    let cgroups = stower_runtime::cgroup::Cgroups::detect(
        &instance,
        fixed.cgroup_parent.as_deref().map(std::path::Path::new),
    )?;
    let limits = crate::effects::limits_of_all(&fixed.containers_limits);
    cgroups.limit_all(&limits).context("cannot limit all containers together (containers.limits)")?;
    let thawed = std::thread::spawn({
        let cgroups = cgroups.clone();
        move || crate::rootfs::thaw_all(&cgroups)
    });
    let storage = stower_storage::Storage::open(options)?;
    let runtime = stower_runtime::start::Runtime::new()?;
    let programs = joined(programs).with_context(|| format!("cannot write programs to {}", bin.display()))?;

    let volumes = stower_storage::Volumes::open(paths.data.join("volumes"), paths.run.join("volumes"));
    let volumes = Arc::new(volumes.context("cannot open the volumes")?);
    let (configured, reloader) = Reloader::new(start, storage.clone());
    let disk = crate::disk::Keeper::new(
        storage.clone(),
        paths.data.clone(),
        configured.settings.clone(),
        metrics.disk.clone(),
    );
    let (told, effects_told) = mpsc::unbounded_channel();
    let groups = cgroups.clone();
    let execs = Execs::new(runtime.clone(), programs.starter.clone());
    let effects = Effects::new(
        storage.clone(),
        Arc::clone(&volumes),
        cgroups.clone(),
        runtime,
        programs,
        configured.settings.clone(),
        metrics.clone(),
        Arc::clone(&disk),
        told,
    );
    let (requests, asked) = mpsc::channel(64);
    let version = joined(version)?;
    let syncer = Syncer::start().context("cannot start the thread that syncs to disk")?;
    let reconcile = Loop { requests, syncer: syncer.clone() };
    let kube = &fixed.kube;
    let cluster =
        kube.enabled.then(|| Arc::new(Cluster::new(kube.clone(), &fixed.node_name, metrics.kube.clone())));
    let node = Node::new(
        storage,
        volumes,
        cgroups,
        configured.clone(),
        metrics,
        Arc::clone(&disk),
        version,
        reconcile,
        execs,
        cluster.clone(),
    );
    let node = Arc::new(node);
    let mut engine =
        Engine::load(Arc::clone(&node), Arc::clone(&effects), configured.settings.clone(), &syncer)?;
    joined(thawed);
    engine.observe();

    // Rules are compiled for the first manifest, and not before what runs was found: that takes a processor for longer.
    std::thread::spawn(stower_crds::prepare);
    let (updates, changed) = mpsc::unbounded_channel();
    let handle = dir::start(paths.manifests.clone(), move |update| updates.send(update).is_ok())
        .context("cannot start the thread that reads manifests")?;
    engine.follow(handle.clone());
    let (words, heard) = mpsc::channel(256);
    let accepted = engine.expect();
    if let Some(cluster) = &cluster {
        cluster.tell(&node, &instance);
        cluster.follow(&accepted, &words);
    }
    let served = tokio::spawn(crate::api::serve(Arc::clone(&node), paths.socket.clone()));
    let scraped = fixed.metrics_bind_address.map(|address| {
        let node = Arc::clone(&node);
        tokio::spawn(async move {
            // Containers do not hang on who looks at them.
            if let Err(error) = crate::api::serve_metrics(node, address).await {
                tracing::error!(%error, %address, "cannot serve metrics; name a free address with --metrics-bind-address");
            }
        })
    });
    tracing::info!(
        manifests = %paths.manifests.display(), data_root = %paths.data.display(),
        socket = %paths.socket.display(), instance, node = fixed.node_name, "the agent runs"
    );

    let dumps = tokio::spawn(dump_on_signal(Arc::clone(&node), paths.run.join("dump.txt")));
    let rescans = tokio::spawn(async move {
        let Ok(mut hangups) = signal(SignalKind::hangup()) else { return };
        while hangups.recv().await.is_some() {
            handle.rescan();
            configured.hang_up().await;
        }
    });
    let keeping = tokio::spawn(disk.run(Arc::clone(&node)));
    let notify = crate::notify::Notify::from_env();
    let notifying = tokio::spawn(notify.clone().run(Arc::clone(&node)));
    let reloading = tokio::spawn(reloader.run(node));
    let inputs = Inputs { told: effects_told, asked, heard, changed };
    tokio::select! {
        () = engine.run(inputs) => bail!("the reconcile loop ended"),
        served = served => match served {
            Ok(Ok(())) => bail!("the local API ended"),
            Ok(Err(error)) => return Err(anyhow::Error::from(error).context("the local API cannot be served")),
            Err(error) => return Err(anyhow::Error::from(error).context("the local API failed")),
        },
        () = told_to_end() => {}
    }
    notify.stopping();
    notifying.abort();
    dumps.abort();
    if let Some(scraped) = scraped {
        scraped.abort();
    }
    rescans.abort();
    keeping.abort();
    reloading.abort();
    syncer.flush();
    // Where nothing is left, nothing is left of the groups either; with a container in them they are busy.
    let _ = groups.remove_root();
    drop(lock);
    tracing::info!("the agent ends; its containers go on");
    Ok(())
}

/// What a thread came to. Its panic is this thread's too.
fn joined<T>(thread: std::thread::JoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Where this agent's counter of changes begins: above all that an earlier one gave out.
fn first_version(data: &std::path::Path) -> anyhow::Result<u64> {
    const SPAN: u64 = 1 << 32;
    let path = data.join("ledger").join("counter");
    let last = match std::fs::read_to_string(&path) {
        Ok(text) => {
            text.trim().parse().with_context(|| format!("{} does not hold a number", path.display()))?
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let first: u64 = last + SPAN;
    crate::paths::write_durably(&path, first.to_string().as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(first)
}

async fn told_to_end() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

async fn dump_on_signal(node: Arc<Node>, path: PathBuf) {
    let Ok(mut signals) = signal(SignalKind::user_defined1()) else { return };
    while signals.recv().await.is_some() {
        let dump = node.dump().await;
        match std::fs::write(&path, &dump) {
            Ok(()) => tracing::info!(path = %path.display(), "wrote a dump of all objects and effects"),
            Err(error) => tracing::error!(%error, path = %path.display(), "cannot write a dump"),
        }
    }
}
