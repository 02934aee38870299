//! The contract on PostgreSQL: one private cluster, a database for each case.

use crate::cluster::Cluster;
use crate::contract::{self, Shared, cases};
use crate::samples::*;
use perigee_store::{Noun, Record, SqlStore, StoreError};
use sqlx::{Connection, PgConnection};
use std::sync::Arc;
use std::time::{Duration, Instant};

async fn open(url: &str) -> Shared {
    Arc::new(SqlStore::open_postgres(url).await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contract_and_more() {
    let cluster = Cluster::start();
    macro_rules! run {
        ($($case:ident),* $(,)?) => {$(
            println!("case {}", stringify!($case));
            contract::$case(open(&cluster.database(stringify!($case)).await).await).await;
        )*};
    }
    cases!(run);
    println!("case reopening");
    let url = cluster.database("reopening").await;
    contract::reopening_keeps_everything(|| open(&url)).await;
    println!("case newer schema");
    a_newer_schema_is_refused(&cluster.database("newer").await).await;
    println!("case lost connection");
    a_lost_connection_is_made_again(&cluster.database("lost").await, &cluster.url("postgres")).await;
    println!("case bad urls");
    bad_urls_are_refused(&cluster).await;
}

async fn a_newer_schema_is_refused(url: &str) {
    open(url).await.close().await;
    let mut link = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql("INSERT INTO schema_version VALUES (1000)").execute(&mut link).await.unwrap();
    let Err(StoreError::Version(text)) = SqlStore::open_postgres(url).await else { panic!("accepted") };
    assert!(text.contains("newer Perigee"), "{text}");
}

async fn a_lost_connection_is_made_again(url: &str, admin: &str) {
    let store = open(url).await;
    store.commit(batch([Record::Task(task(1))])).await.unwrap();
    let mut link = PgConnection::connect(admin).await.unwrap();
    let text = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'lost'";
    sqlx::raw_sql(text).execute(&mut link).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut refused = 0;
    while let Err(error) = store.commit(batch([Record::Task(task(2))])).await {
        assert!(matches!(error, StoreError::Engine(_)), "{error:?}");
        refused += 1;
        assert!(Instant::now() < deadline);
    }
    assert_eq!(refused, 1, "the first commit finds out, the second has a new connection");
    assert_eq!(store.all(Noun::Task).await.unwrap().len(), 2);
}

async fn bad_urls_are_refused(cluster: &Cluster) {
    let absent = cluster.url("no_such_database");
    for url in ["", "mysql://x", "postgres://u:geheim@127.0.0.1:1/p", absent.as_str()] {
        let Err(StoreError::Engine(error)) = SqlStore::open_postgres(url).await else { panic!("{url} was accepted") };
        assert!(!format!("{error} {error:?}").contains("geheim"));
    }
}
