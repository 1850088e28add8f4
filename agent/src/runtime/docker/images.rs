//! Docker's images: listed, followed, removed.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use async_trait::async_trait;
use bollard::query_parameters::{
    EventsOptionsBuilder, ListContainersOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptionsBuilder,
};
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};

use super::{Docker, failure, is_status};
use crate::runtime::{ImageStore, RuntimeError, StoredImage};

#[async_trait]
impl ImageStore for Docker {
    async fn stored(&self) -> Result<Vec<StoredImage>, RuntimeError> {
        let options = ListImagesOptionsBuilder::new().all(false).build();
        let listed = self.client().await?.list_images(Some(options)).await;
        let listed = listed.map_err(|e| failure("list images", e))?;
        let image = |found: bollard::models::ImageSummary| {
            let names = found.repo_digests.into_iter().chain(found.repo_tags);
            let names = names.filter(|name| !name.starts_with("<none>")).collect();
            StoredImage { id: found.id, names, size: found.size }
        };
        Ok(listed.into_iter().map(image).collect())
    }

    async fn used_images(&self) -> Result<BTreeSet<String>, RuntimeError> {
        let options = ListContainersOptionsBuilder::new().all(true).build();
        let listed = self.client().await?.list_containers(Some(options)).await;
        let listed = listed.map_err(|e| failure("list all containers", e))?;
        Ok(listed.into_iter().filter_map(|container| container.image_id).collect())
    }

    async fn remove_image(&self, image: &StoredImage) -> Result<(), RuntimeError> {
        // By tags: an image that has several is not removed by its id without force, which would not ask who uses it.
        let tags: Vec<&String> = image.names.iter().filter(|name| !name.contains('@')).collect();
        let names = if tags.is_empty() { vec![&image.id] } else { tags };
        for name in names {
            let options = RemoveImageOptionsBuilder::new().force(false).build();
            match self.client().await?.remove_image(name, Some(options), None).await {
                Err(e) if !is_status(&e, 404) => return Err(failure(&format!("remove image {name}"), e)),
                _ => {}
            }
        }
        Ok(())
    }

    async fn image_events(&self) -> Result<BoxStream<'static, Result<(), RuntimeError>>, RuntimeError> {
        let kinds = ["pull", "tag", "untag", "delete", "import", "load"].map(str::to_owned).to_vec();
        let filters =
            HashMap::from([("type".to_owned(), vec!["image".to_owned()]), ("event".to_owned(), kinds)]);
        let stream = self.client().await?.events(Some(EventsOptionsBuilder::new().filters(&filters).build()));
        Ok(stream.map_ok(drop).map_err(|e| failure("listen to events of images", e)).boxed())
    }

    async fn folder(&self) -> Result<PathBuf, RuntimeError> {
        let info = self.client().await?.info().await.map_err(|e| failure("ask for information", e))?;
        Ok(info.docker_root_dir.unwrap_or_default().into())
    }
}
