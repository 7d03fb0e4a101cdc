"""RLDS in the form of TFDS: written as array_record, read as tfrecord too.

Without TensorFlow: records are parsed and made by the modules of this package.
"""

from ring_rl.data.rlds.dataset import read_rlds as read_rlds
from ring_rl.data.rlds.dataset import write_rlds as write_rlds
from ring_rl.data.rlds.dataset import write_rlds_files as write_rlds_files
from ring_rl.data.rlds.source import DATASET_MARKER as DATASET_MARKER
from ring_rl.data.rlds.source import open_rlds as open_rlds
