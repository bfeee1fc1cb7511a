"""What each SuperNode does with a model: two epochs of SGD on its own rows."""

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from digitsapp import numpy_mlp

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    task = numpy_mlp.load(str(context.run_config["task"]))
    x, y = numpy_mlp.share(task, int(context.node_config["partition-id"]))
    params = numpy_mlp.train(msg.content["arrays"].to_numpy_ndarrays(), x, y, np.random.default_rng())
    metrics = MetricRecord({"num-examples": len(x)})
    return Message(RecordDict({"arrays": ArrayRecord(params), "metrics": metrics}), reply_to=msg)
