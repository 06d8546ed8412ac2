//! Documents of a live cluster, where a command takes paths: `--cluster`.
//!
//! The objects that agents follow are listed once, by the user's own credentials. Nothing is
//! written, and no agent is asked.
//!
//! Invariant: a document of a file stands for the object of its name, as if it were applied.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use cofferdam_documents::{Document, Identity, Parsed, Source};
use cofferdam_sources::kubernetes::{Cluster, User};

use super::project::{Project, ReadArgs};

/// The cluster that a user means.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct UserArgs {
    /// Context of the kubeconfig; the current one by default.
    #[arg(long, value_name = "CONTEXT")]
    pub(super) context: Option<String>,
    /// Path of the kubeconfig; those of KUBECONFIG or `~/.kube/config` by default.
    #[arg(long, value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,
}

impl UserArgs {
    /// Refuses flags about a cluster that nobody asks for.
    pub(super) fn refuse_without_cluster(&self) -> Result<()> {
        let is_given = [
            ("--context", self.context.is_some()),
            ("--kubeconfig", self.kubeconfig.is_some()),
        ];
        match is_given.into_iter().find(|(_, is_given)| *is_given) {
            Some((flag, _)) => bail!("{flag} is about a cluster: give --cluster as well"),
            None => Ok(()),
        }
    }

    /// Makes ready to ask the cluster.
    pub(super) fn connect(&self) -> Result<Cluster> {
        Ok(Cluster::connect(&User {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
        })?)
    }
}

/// Objects of a cluster among the documents.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct ClusterArgs {
    /// Reads the objects of a live cluster, as its agents do, beside files or without any; a
    /// document of a file stands for the object of its name.
    #[arg(long)]
    pub(super) cluster: bool,
    #[command(flatten)]
    pub(super) user: UserArgs,
    /// Directory with the policies as they were applied: those that say the same as the
    /// cluster's are told by file and line.
    #[arg(long, value_name = "DIR")]
    sources: Vec<PathBuf>,
}

impl ClusterArgs {
    /// Returns the objects, none unless they are asked for.
    ///
    /// # Errors
    /// If the cluster cannot be reached, or forbids a kind.
    pub(super) fn read(&self) -> Result<Vec<Source>> {
        if self.cluster {
            return self.read_context(self.user.context.as_deref());
        }
        self.user.refuse_without_cluster()?;
        if !self.sources.is_empty() {
            bail!("--sources is about a cluster: give --cluster as well");
        }
        Ok(Vec::new())
    }

    /// The same of a context that is asked for in any case.
    pub(super) fn read_context(&self, context: Option<&str>) -> Result<Vec<Source>> {
        let user = UserArgs {
            context: context.map(str::to_owned),
            ..self.user.clone()
        };
        let checkout = self.checkout()?;
        let read = || -> Result<Vec<Source>> { Ok(user.connect()?.documents()?) };
        let mut objects = read().context("cannot read the cluster")?;
        for object in &mut objects {
            point_at(&checkout, object);
        }
        Ok(objects)
    }

    /// Reads the policies of a checkout.
    fn checkout(&self) -> Result<BTreeMap<Identity, Document>> {
        if self.sources.is_empty() {
            return Ok(BTreeMap::new());
        }
        let project = Project::read(&self.sources, &ReadArgs::default())
            .context("cannot read the policies of --sources")?;
        let documents = project.assemble().documents;
        let policies = documents
            .iter()
            .filter(|(identity, _)| identity.kind.is_policy());
        Ok(policies
            .map(|(identity, document)| (identity.clone(), document.clone()))
            .collect())
    }
}

/// Lets an object's policy have the places of the checkout, where both say the same.
fn point_at(checkout: &BTreeMap<Identity, Document>, object: &mut Source) {
    let mut documents = object.parsed.documents.clone();
    let mut is_found = false;
    for document in &mut documents {
        let written = checkout.get(&document.identity);
        if let Some(written) = written.filter(|written| written.says_the_same(document)) {
            *document = written.clone();
            is_found = true;
        }
    }
    if is_found {
        object.parsed = Arc::new(Parsed {
            documents,
            ..(*object.parsed).clone()
        });
    }
}

/// Puts objects beside what files say. An object whose document stands in a file is left out.
pub(super) fn put_beside(sources: &mut Vec<Source>, objects: Vec<Source>) {
    let names = |source: &Source| {
        let good = source.parsed.documents.iter().map(|one| &one.identity);
        let bad = source
            .parsed
            .rejected
            .iter()
            .filter_map(|one| one.identity.as_ref());
        good.chain(bad).cloned().collect::<Vec<Identity>>()
    };
    let written: BTreeSet<Identity> = sources.iter().flat_map(names).collect();
    let is_written = |object: &Source| names(object).iter().any(|one| written.contains(one));
    sources.extend(objects.into_iter().filter(|object| !is_written(object)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(app: &str) -> String {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
             metadata: {{name: db, namespace: shop}}\n\
             spec: {{podSelector: {{matchLabels: {{app: {app}}}}}}}\n"
        )
    }

    fn source(file: &str, text: String) -> Source {
        Source::new(file.into(), text.into_bytes().into())
    }

    const OBJECT: &str = "kubernetes:NetworkPolicy/shop/db";

    #[test]
    fn a_file_stands_for_the_object_of_its_name_even_if_it_is_invalid() {
        let invalid = policy("a").replace("app: a", "app: [a]");
        for (written, left) in [(policy("other"), 1), (invalid, 1), (String::new(), 2)] {
            let mut sources = vec![source("p.yaml", written)];
            put_beside(&mut sources, vec![source(OBJECT, policy("db"))]);
            assert_eq!(sources.len(), left);
        }
    }

    #[test]
    fn a_checkout_gives_its_places_to_policies_that_say_the_same() {
        let written = source("p.yaml", format!("# a comment\n{}", policy("db")))
            .parsed
            .documents[0]
            .clone();
        let checkout = BTreeMap::from([(written.identity.clone(), written)]);
        for (app, file) in [("db", "p.yaml"), ("other", OBJECT)] {
            let mut object = source(OBJECT, policy(app));
            point_at(&checkout, &mut object);
            assert_eq!(&*object.parsed.documents[0].place.file, file);
        }
    }
}
