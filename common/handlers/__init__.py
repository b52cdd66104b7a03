"""What MONAI's handlers lack: atomic checkpoints with resume, epoch logs, time estimates."""
