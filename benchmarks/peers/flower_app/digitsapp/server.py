"""What the server does: Flower's FedAvg over all ten SuperNodes, judged after every round."""

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from digitsapp import numpy_mlp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    task, peers = numpy_mlp.load(str(context.run_config["task"])), int(context.run_config["peers"])

    def judge(round: int, arrays: ArrayRecord) -> MetricRecord:
        found = numpy_mlp.accuracy(arrays.to_numpy_ndarrays(), task)
        numpy_mlp.tell(str(context.run_config["events"]), round, found)
        return MetricRecord({"accuracy": found})

    FedAvg(fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=peers, min_available_nodes=peers).start(
        grid=grid,
        initial_arrays=ArrayRecord(numpy_mlp.start(task)),
        num_rounds=int(context.run_config["rounds"]),
        evaluate_fn=judge,
    )
