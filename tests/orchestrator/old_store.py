"""MLflow stores of earlier versions, made by the migrations of the installed MLflow."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

MLFLOW_2_9 = "acf3f17fdcc7"  # the newest migration when MLflow 2.9.2 came out, in December 2023
RUN = "0123456789abcdef0123456789abcdef"

_MAKE = """
import sys
import sqlalchemy
from alembic import command
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base
uri, revision = sys.argv[1:]
engine = sqlalchemy.create_engine(uri)
Base.metadata.create_all(engine)
config = _get_alembic_config(uri)
with engine.begin() as connection:
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
"""


def make_old_store(file: Path, revision: str = MLFLOW_2_9) -> Path:
    """Writes a store with one run of the experiment `phantom/test`, as an earlier MLflow left it."""
    made = [sys.executable, "-c", _MAKE, f"sqlite:///{file}", revision]
    subprocess.run(made, check=True, capture_output=True, timeout=300)
    with closing(sqlite3.connect(file)) as database, database:
        database.execute(
            "insert into experiments (experiment_id, name, artifact_location, lifecycle_stage) "
            "values (7, 'phantom/test', '/old', 'active')"
        )
        database.execute(
            "insert into runs (run_uuid, name, experiment_id, status, lifecycle_stage, source_type) "
            f"values ('{RUN}', 'a run of MLflow 2.9', 7, 'FINISHED', 'active', 'LOCAL')"
        )
        database.execute(f"insert into params (key, value, run_uuid) values ('rank', '8', '{RUN}')")
    return file


def revision_in(file: Path) -> str:
    with closing(sqlite3.connect(file)) as database:
        ((revision,),) = database.execute("select version_num from alembic_version")
        return revision


def write_revision(file: Path, revision: str | None) -> Path:
    """Writes a file that has MLflow's tables as far as a reader of the revision sees them."""
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("create table experiments (experiment_id integer primary key, name text)")
        if revision is not None:
            database.execute("create table alembic_version (version_num varchar(32) not null)")
            database.execute("insert into alembic_version values (?)", (revision,))
    return file
