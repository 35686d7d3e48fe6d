"""The routes of the OpenAI API that make images."""

from fastapi import APIRouter

router = APIRouter()
