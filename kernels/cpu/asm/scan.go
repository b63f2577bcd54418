package main

func scan() {}
